"""Estimate the training of AdaIN on COCO and WikiArt with 1, 8, 64, ... devices, from measured or assumed speeds.

    python scripts/plan_scaling.py                                        # a GPU, assumed from its peak speed
    python scripts/plan_scaling.py --measured gpu.json                    # measured with benchmark_scaling.py
    python scripts/plan_scaling.py --measured gpu.json --check            # estimates beside measurements

A step takes as long as the computation on the slowest device, the exchange of gradients and a fixed overhead together;
or as long as reading and decoding, which run in parallel, if that is longer:

    work      pairs per device / pairs per second, times 1 + jitter x the expected maximum of N normal deviates
    exchange  rings within nodes and between nodes: 2 (n - 1)/n x bytes / bandwidth + 2 (n - 1) x latency. No overlap
              with the backward pass is assumed, so this is an upper bound.
    data      two pictures per pair / (cores x pictures that one core decodes per second)
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

CONTENT, STYLE = 118_287, 81_444  # number of pictures in COCO train2017 and in WikiArt
PAPER_STEPS, PAPER_PAIRS = 160_000, 8  # Huang & Belongie 2017 and its code


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that decide how long a step takes.

    Args:
        pairs_per_second: training speed of one device.
        batch: pairs per device and step.
        overhead_s: fixed time per step.
        jitter: standard deviation of the time of a device, over its mean.
        gradient_bytes: bytes that the devices average per step.
        per_node: devices per node.
        inside, between: bytes per second between the devices in a node, and between nodes (for each node).
        latency_s: time per message.
        cores: CPU cores per device for decoding.
        decode: pictures per second that one core reads, decodes and crops.
        picture_bytes: size of a stored picture.
    """

    pairs_per_second: float
    batch: int
    overhead_s: float
    jitter: float
    gradient_bytes: float
    per_node: int
    inside: float
    between: float
    latency_s: float
    cores: float
    decode: float
    picture_bytes: float

    def exchange_s(self, devices: int) -> float:
        """Seconds for the exchange of gradients in a step."""
        nodes = math.ceil(devices / self.per_node)
        within = min(devices, self.per_node)
        return self._ring_s(within, self.inside) + self._ring_s(nodes, self.between)

    def work_s(self, devices: int) -> float:
        """Seconds for the computation of a step on the slowest device."""
        return self.batch / self.pairs_per_second * (1 + self.jitter * expected_largest(devices))

    @property
    def data_s(self) -> float:
        """Seconds to read and decode the pictures of a step."""
        return 2 * self.batch / (self.cores * self.decode)

    def step_s(self, devices: int) -> float:
        """Seconds of a step."""
        return max(self.work_s(devices) + self.exchange_s(devices) + self.overhead_s, self.data_s)

    def rate(self, devices: int) -> float:
        """Pairs per second of all devices together."""
        return devices * self.batch / self.step_s(devices)

    def _ring_s(self, count: int, bandwidth: float) -> float:
        return 2 * (count - 1) / count * self.gradient_bytes / bandwidth + 2 * (count - 1) * self.latency_s


def expected_largest(count: int) -> float:
    """The expected maximum of `count` standard normal deviates, by Blom's approximation."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def main() -> None:
    args = parser().parse_args()
    try:
        measured = json.loads(args.measured.read_text()) if args.measured else {}
        lines = _check(measured, args) if args.check else _plan(_machine(measured, args), args.devices, args.pairs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(f"--measured={args.measured}: this file was not written by benchmark_scaling.py --output ({error!r})")
    print("\n".join(lines))


def parser() -> argparse.ArgumentParser:
    """The options of this script."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = result.add_argument
    option("--measured", type=Path, help="JSON file of benchmark_scaling.py; options below take precedence over it")
    option("--check", action="store_true", help="print estimates beside the measured trainings")
    option("--devices", type=count, nargs="+", default=[1, 8, 64], help="numbers of devices (1 8 64)")
    option("--per-node", type=count, default=8, help="devices per node (8)")
    option("--batch", type=count, default=PAPER_PAIRS, help="pairs per device and step (8)")
    option("--pairs", type=positive, default=PAPER_STEPS * PAPER_PAIRS, help="pairs in the training (1.28 million)")
    speed = "speed of one device (default: that of --measured on a GPU, else --tflops x --share / --gflop)"
    option("--pairs-per-second", type=positive, help=speed)
    option("--tflops", type=positive, default=989, help="peak speed of a device (989: H100, bf16, dense)")
    option("--share", type=positive, default=0.2, help="share of the peak speed that is reached (0.2)")
    option("--gflop", type=positive, help="operations per pair (196: crops of 256 px)")
    option("--overhead-ms", type=not_negative, help="fixed time per step (10; 0 with a measured GPU)")
    option("--jitter", type=not_negative, default=0.03, help="deviation of a device's time, over its mean (0.03)")
    option("--parameters", type=positive, help="float32 parameters that the devices average (3,505,219)")
    option("--inside-gbs", type=positive, default=200, help="GB/s between the devices in a node (200)")
    option("--network-gbit", type=positive, default=100, help="Gbit/s of each node (100)")
    option("--latency-us", type=not_negative, default=20, help="microseconds per message (20)")
    option("--cores", type=positive, default=8, help="CPU cores per device for decoding (8)")
    option("--decode", type=positive, help="pictures per second that a core decodes (500)")
    option("--picture-kb", type=positive, help="size of a stored picture in kB (84)")
    return result
    return result


def count(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    return positive(text) if float(text) else 0.0


def _machine(measured: dict, args: argparse.Namespace) -> Machine:
    data = measured.get("data", {}).get("shards", {})
    gflop = args.gflop or measured.get("work", {}).get("256", 196)
    train = measured.get("train", {})
    alone = train["pairs_per_second"].get("1") if train.get("accelerator") == "gpu" else None
    overhead_ms = args.overhead_ms if args.overhead_ms is not None else 0 if alone else 10
    parameters = args.parameters or measured.get("gradients", {}).get("parameters", 3_505_219)
    return Machine(
        pairs_per_second=args.pairs_per_second or alone or args.tflops * 1e3 * args.share / gflop,
        batch=args.batch,
        overhead_s=overhead_ms / 1e3,
        jitter=args.jitter,
        gradient_bytes=4 * parameters,
        per_node=args.per_node,
        inside=args.inside_gbs * 1e9,
        between=args.network_gbit * 1e9 / 8,
        latency_s=args.latency_us / 1e6,
        cores=args.cores,
        decode=args.decode or data.get("pictures_per_second", 500),
        picture_bytes=1e3 * (args.picture_kb or data.get("kilobytes", 84)),
    )


def _plan(machine: Machine, devices: list[int], pairs: float) -> list[str]:
    lines = [
        f"one device: {machine.pairs_per_second:.0f} pairs/s while it computes\n",
        f"| devices | a step, ms | of it exchange | data, ms | pairs/s | efficiency | {pairs / 1e6:.2f} M pairs, h | "
        f"{PAPER_STEPS:,} steps, h | network of a node, Gbit/s | reading, MB/s | cores to decode |",
        "|---" * 11 + "|",
    ]
    for count in devices:
        step_s, rate = machine.step_s(count), machine.rate(count)
        nodes = math.ceil(count / machine.per_node)
        sent = 2 * (nodes - 1) / nodes * machine.gradient_bytes / step_s * 8 / 1e9
        lines.append(
            f"| {count} | {step_s * 1e3:.1f} | {machine.exchange_s(count) / step_s:.1%} | {machine.data_s * 1e3:.1f} | "
            f"{rate:.0f} | {rate / count / machine.rate(1):.0%} | {pairs / rate / 3600:.3g} | "
            f"{PAPER_STEPS * step_s / 3600:.3g} | {sent:.2f} | {2 * rate * machine.picture_bytes / 1e6:.0f} | "
            f"{2 * rate / machine.decode:.0f} |"
        )
    stored = (CONTENT + STYLE) * machine.picture_bytes / 1e9
    return [*lines, f"\n{stored:.0f} GB of pictures; {pairs:,.0f} pairs are {pairs / CONTENT:.1f} epochs of COCO"]


def _check(measured: dict, args: argparse.Namespace) -> list[str]:
    """Rows that compare measured speeds with estimates from the speed of one process and the measured exchange."""
    train = measured["train"]
    rates = {int(count): rate for count, rate in train["pairs_per_second"].items()}
    exchange = {int(count): seconds for count, seconds in measured["gradients"]["seconds"].items()}
    lines = ["| processes | predicted pairs/s | measured pairs/s |", "|---|---|---|"]
    for count, rate in rates.items():
        step_s = train["batch"] / rates[1] * (1 + args.jitter * expected_largest(count)) + exchange.get(count, 0.0)
        lines.append(f"| {count} | {count * train['batch'] / step_s:.2f} | {rate:.2f} |")
    return lines


if __name__ == "__main__":
    main()
