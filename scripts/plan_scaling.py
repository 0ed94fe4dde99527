"""What training AdaIN on COCO and WikiArt takes on 1, 8, 64, ... devices: arithmetic on measured numbers.

    python scripts/plan_scaling.py                                        # a GPU, from its peak: an assumption
    python scripts/plan_scaling.py --measured gpu.json                    # measured there, with benchmark_scaling.py
    python scripts/plan_scaling.py --measured gpu.json --check            # what this predicts, beside what was measured

A step is the slowest device's work, the exchange of gradients and a fixed overhead, or reading and decoding beside it
where that takes longer:

    work      pairs of a device / its pairs a second, times 1 + jitter x the expected largest of N normal deviates
    exchange  rings inside the nodes and between them: 2 (n - 1)/n x bytes / bandwidth + 2 (n - 1) x latency; none of
              it is hidden behind the backward pass, so this is the pessimistic end
    data      two pictures a pair / (cores x pictures a core decodes in a second)
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

CONTENT, STYLE = 118_287, 81_444  # pictures in COCO train2017 and WikiArt
PAPER_STEPS, PAPER_PAIRS = 160_000, 8  # Huang & Belongie 2017 and its code


@dataclass(frozen=True)
class Machine:
    """What one step depends on.

    Args:
        pairs_per_second: that one device trains on.
        batch: pairs of a device and step.
        overhead_s: of a step, whatever it computes.
        jitter: standard deviation of a device's time over its mean.
        gradient_bytes: that the devices average in a step.
        per_node: devices of a node.
        inside, between: bytes a second between the devices of a node, and between nodes (of each node).
        latency_s: of a message.
        cores: that decode, per device.
        decode: pictures a second that one core reads, decodes and crops.
        picture_bytes: as stored.
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
        nodes = math.ceil(devices / self.per_node)
        within = min(devices, self.per_node)
        return self._ring_s(within, self.inside) + self._ring_s(nodes, self.between)

    def work_s(self, devices: int) -> float:
        return self.batch / self.pairs_per_second * (1 + self.jitter * expected_largest(devices))

    @property
    def data_s(self) -> float:
        return 2 * self.batch / (self.cores * self.decode)

    def step_s(self, devices: int) -> float:
        return max(self.work_s(devices) + self.exchange_s(devices) + self.overhead_s, self.data_s)

    def rate(self, devices: int) -> float:
        """Pairs a second of all devices."""
        return devices * self.batch / self.step_s(devices)

    def _ring_s(self, count: int, bandwidth: float) -> float:
        return 2 * (count - 1) / count * self.gradient_bytes / bandwidth + 2 * (count - 1) * self.latency_s


def expected_largest(count: int) -> float:
    """The expected largest of `count` standard normal deviates, by Blom's approximation."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def main() -> None:
    args = parser().parse_args()
    try:
        measured = json.loads(args.measured.read_text()) if args.measured else {}
        lines = _check(measured, args) if args.check else _plan(_machine(measured, args), args.devices, args.pairs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(f"--measured={args.measured}: not a file of benchmark_scaling.py's --output ({error!r})")
    print("\n".join(lines))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = result.add_argument
    option("--measured", type=Path, help="JSON of benchmark_scaling.py; the options below win over it")
    option("--check", action="store_true", help="beside the measured trainings, what this predicts")
    option("--devices", type=count, nargs="+", default=[1, 8, 64])
    option("--per-node", type=count, default=8, help="devices of a node (8)")
    option("--batch", type=count, default=PAPER_PAIRS, help="pairs of a device and step (8)")
    option("--pairs", type=positive, default=PAPER_STEPS * PAPER_PAIRS, help="of the training (1.28 million)")
    of_one = "of one device; else --measured's GPU, or --tflops x --share / --gflop"
    option("--pairs-per-second", type=positive, help=of_one)
    option("--tflops", type=positive, default=989, help="peak of a device (989: H100, bf16, dense)")
    option("--share", type=positive, default=0.2, help="of the peak that is reached (0.2)")
    option("--gflop", type=positive, help="of a pair (196: crops of 256 px)")
    option("--overhead-ms", type=not_negative, help="of a step: launches, optimizer (10; none beside a measured GPU)")
    option("--jitter", type=not_negative, default=0.03, help="deviation of a device's time over its mean (0.03)")
    option("--parameters", type=positive, help="that the devices average, float32 (3,505,219)")
    option("--inside-gbs", type=positive, default=200, help="GB/s between devices of a node (200)")
    option("--network-gbit", type=positive, default=100, help="Gbit/s of each node (100)")
    option("--latency-us", type=not_negative, default=20, help="of a message (20)")
    option("--cores", type=positive, default=8, help="CPU cores per device that decode (8)")
    option("--decode", type=positive, help="pictures/s of a core (500)")
    option("--picture-kb", type=positive, help="size of a stored picture (84)")
    return result


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def not_negative(text: str) -> float:
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
    """From one process and the measured exchange: what several should reach."""
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
