"""Motion between the frames of a clip: optical flow, a mask of where it is reliable, and the flicker of a clip.

Frames are RGB uint8 arrays (H, W, 3), as decoders return them. Flows inside `Motion` are arrays (H, W, 2) of (u, v),
in pixels to the right and down. The functions that implement formulas of papers take tensors (B, C, H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import UserError, choice
from nstexp.core.names import FlowName
from nstexp.core.networks.pretrained import load_tensors, torch_hub_file

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two frames -> (H, W, 2): how far each pixel of the first moved
LONGEST_SIDE_PX = 640  # larger frames are scaled down to this for the flow, and the flow is scaled up again
COLOR_TOLERANCE = 0.05  # RMS difference of a warped frame from the new one at which trust falls to 1/e
CUT_BELOW = 0.15  # a frame with a mean trust below this begins a new scene


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Backward warping: the output at x is `image` at x + flow(x), interpolated bilinearly.

    Args:
        image: (B, C, H, W).
        flow: (B, 2, H, W), (u, v) in pixels to the right and down.

    Returns:
        (B, C, H, W). Positions that the flow leads outside the image get the value of the nearest border pixel.
    """
    height, width = image.shape[-2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = flow[:, 1] + torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    return F.grid_sample(image, grid.to(image), mode="bilinear", padding_mode="border", align_corners=True)


def reliability(forward: Tensor, backward: Tensor) -> Tensor:
    """Mask of where the flow is reliable: (B, 1, H, W), 1 or 0, on the pixels of the frame that `forward` starts at.

    Ruder et al. 2016, section 4.1. Let w be the forward flow and w' the backward flow at the place that w leads to. A
    position is disoccluded if |w + w'|^2 > 0.01 (|w|^2 + |w'|^2) + 0.5, and at a motion boundary if
    |grad u|^2 + |grad v|^2 > 0.01 |w|^2 + 0.002 (forward differences). Positions whose flow leads outside the frame
    are 0 too. The paper's masks belong to the later frame: `reliability(backward, forward)`.

    Args:
        forward, backward: (B, 2, H, W), (u, v) in pixels, from a frame to the next one and back.
    """
    pairs = zip(forward.detach().cpu(), backward.detach().cpu(), strict=True)
    masks = [_mask(*(flow.float().permute(1, 2, 0).numpy() for flow in pair)) for pair in pairs]
    return torch.from_numpy(np.stack(masks))[:, None].to(forward)


def warping_error(frames: Tensor, flows: Tensor, masks: Tensor | None = None) -> float:
    """Flicker of a video: mean squared difference of each frame to the next one warped back onto it; at least 0.

    Lai et al. 2018: the mean over visible positions and channels, then over the pairs of frames. A pair without a
    visible position is left out.

    Args:
        frames: (T, 3, H, W) in [0, 1].
        flows: (T - 1, 2, H, W), from each frame to the next, see `warp`.
        masks: (T - 1, 1, H, W) in [0, 1], weight of each position, see `reliability`; None: all weights are 1.

    Raises:
        UserError: there are fewer than two frames, or no pair has a visible position.
    """
    masks = torch.ones_like(flows[:, :1]) if masks is None else masks
    errors = []
    for t, (flow, mask) in enumerate(zip(flows, masks, strict=True)):
        squares = (frames[t] - warp(frames[t + 1][None], flow[None])[0]).square().mean(0, keepdim=True)
        if mask.any():
            errors.append(float((mask * squares).sum() / mask.sum()))
    if not errors:
        raise UserError("warping error: no pair of frames shares a visible position")
    return sum(errors) / len(errors)


# --------------------------------------------------------------------------------------------------------------- motion


@dataclass(frozen=True)
class Motion:
    """The motion from the previous frame to this one, scaled to the frame size that `MotionEstimator` was given.

    Args:
        forward, backward: (H, W, 2) float32, in pixels, from the previous frame to this one, and back.
        visible: (H, W) uint8, 255 where a pixel of the previous frame is still visible:
            `reliability(forward, backward)`.
        trust: (H, W) float32 in [0, 1], how far the previous frame, warped, can be relied on here: the mask of Ruder et
            al. for this frame, times exp(-d^2 / 0.05^2) with d the RMS color difference along the flow, smoothed.
        cut: whether this frame begins another scene.
    """

    forward: np.ndarray
    backward: np.ndarray
    visible: np.ndarray
    trust: np.ndarray
    cut: bool

    def from_before(self, picture: np.ndarray) -> np.ndarray:
        """Warp the stylized previous frame, float32 (H, W, 3) in [0, 1], onto this frame (bicubic)."""
        moved: np.ndarray = np.clip(_remap(picture, self.backward, smooth=True), 0, 1)
        return moved


class MotionEstimator:
    """Estimates the motion from each frame of a clip to the next one.

    Args:
        name: `dis` (Kroeger et al. 2016, OpenCV's medium preset with fewer patches), `dis_fast` (its fast preset), or
            `raft` (Teed & Deng 2020, torchvision's small network; its weights are downloaded once).
        size: (height, width) in pixels that flows and masks are scaled to.
        device: where `raft` computes; the other methods run on the CPU.

    Raises:
        UserError: the name is unknown, or the weights cannot be downloaded.
    """

    def __init__(self, name: FlowName, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        choice("name", name, get_args(FlowName))
        self.flow = _raft(device) if name == "raft" else _dis(fast=name == "dis_fast")
        self.size = size

    def __call__(self, before: np.ndarray, now: np.ndarray) -> Motion:
        """Estimate the motion between two consecutive frames of equal size, uint8 (H, W, 3)."""
        import cv2

        before, now = self._reduced(before), self._reduced(now)
        forward, backward = self.flow(before, now), self.flow(now, before)
        visible, kept = (_mask(*flows) for flows in ((forward, backward), (backward, forward)))
        apart = cv2.absdiff(_remap(before, backward), now)
        squares = cv2.transform(cv2.multiply(apart, apart, dtype=cv2.CV_32F), np.ones((1, 3), np.float32)) / 3
        difference = cv2.GaussianBlur(squares, (0, 0), 1.5) / 255**2
        trust = cv2.GaussianBlur(kept * np.exp(-difference / COLOR_TOLERANCE**2), (0, 0), 0.8)
        cut = bool(trust.mean() < CUT_BELOW)
        size = self.size[::-1]
        return Motion(
            self._enlarged(forward),
            self._enlarged(backward),
            cv2.resize((255 * visible).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST),
            cv2.resize(trust, size, interpolation=cv2.INTER_LINEAR),
            cut,
        )

    def _reduced(self, frame: np.ndarray) -> np.ndarray:
        import cv2

        height, width = frame.shape[:2]
        scale = min(LONGEST_SIDE_PX, max(self.size)) / max(height, width)
        if scale >= 1:
            return frame
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)

    def _enlarged(self, flow: np.ndarray) -> np.ndarray:
        import cv2

        height, width = flow.shape[:2]
        if (height, width) == self.size:
            return flow
        enlarged: np.ndarray = cv2.resize(flow, self.size[::-1], interpolation=cv2.INTER_LINEAR)
        # In place and by channel, which takes a fifth of the time of a product with two numbers.
        enlarged[..., 0] *= self.size[1] / width
        enlarged[..., 1] *= self.size[0] / height
        return enlarged


class Flicker:
    """Accumulates the `warping_error` of a clip frame by frame; the frames are rounded to 8 bits, as saved."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def add(self, before: np.ndarray, now: np.ndarray, motion: Motion | None) -> float | None:
        """Add two consecutive frames, uint8 (H, W, 3), and the motion between them.

        If `motion` is None the scene did not move, and the frames are compared pixel by pixel.

        Returns:
            The error of this pair; None if no position is visible in both frames.
        """
        import cv2

        if motion is None:
            self.errors.append(cv2.norm(before, now, cv2.NORM_L2SQR) / (before.size * 255**2))
            return self.errors[-1]
        visible = int(np.count_nonzero(motion.visible))
        if not visible:
            return None
        squares = cv2.norm(before, _remap(now, motion.forward), cv2.NORM_L2SQR, motion.visible)
        self.errors.append(squares / (3 * visible * 255**2))
        return self.errors[-1]

    def mean(self) -> float | None:
        """The warping error so far; None before the second frame."""
        return sum(self.errors) / len(self.errors) if self.errors else None


def _mask(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """`reliability` for arrays (H, W, 2), as (H, W) of 0 and 1.

    Written with NumPy and OpenCV: PyTorch would start a second pool of threads for the decoder's thread, beside the
    networks'.
    """
    import cv2

    height, width = forward.shape[:2]
    u, v = cv2.split(forward)
    x, y = _places(forward)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    back_u, back_v = cv2.split(cv2.remap(backward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    size, back_size, gap = _squares(u, v), _squares(back_u, back_v), _squares(u + back_u, v + back_v)
    steps = np.zeros((height, width), np.float32)
    steps[:-1] += _squares(u[1:] - u[:-1], v[1:] - v[:-1])
    steps[:, :-1] += _squares(u[:, 1:] - u[:, :-1], v[:, 1:] - v[:, :-1])
    lost = gap > 0.01 * (size + back_size) + 0.5
    boundary = steps > 0.01 * size + 0.002
    reliable: np.ndarray = (inside & ~lost & ~boundary).astype(np.float32)
    return reliable


def _squares(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Squared lengths of vectors by their two parts; apart, they take a fraction of the time of arrays (H, W, 2)."""
    u, v = u * u, v * v
    u += v
    return u


def _places(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions that a flow (H, W, 2) leads to: x and y, (H, W) each."""
    height, width = flow.shape[:2]
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    return flow[..., 0] + columns, flow[..., 1] + rows[:, None]


def _remap(picture: np.ndarray, flow: np.ndarray, smooth: bool = False) -> np.ndarray:
    """`warp` for arrays (H, W, 3)."""
    import cv2

    x, y = _places(flow)
    interpolation = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    return cv2.remap(picture, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)


def _dis(fast: bool) -> Flow:
    import cv2

    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    algorithm: Any = cv2.DISOpticalFlow_create(preset)  # type: ignore[attr-defined]  # missing in OpenCV's stubs
    if not fast:
        # Instead of 3 and 5. This takes 0.65 of the time, and the warping error of two clips by this flow is 2.6 %
        # higher (a street) and 0.9 % lower (a kitchen).
        algorithm.setPatchStride(4)
        algorithm.setVariationalRefinementIterations(3)
    smallest = 16  # px; OpenCV fails on smaller frames
    narrowest = 48  # px; on narrower frames its result depends on uninitialized memory

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        height, width = first.shape[:2]
        if min(height, width) < smallest:
            return np.zeros((height, width, 2), np.float32)
        grays = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
        padded = (np.pad(gray, ((0, 0), (0, max(0, narrowest - width))), mode="edge") for gray in grays)
        return np.ascontiguousarray(algorithm.calc(*padded, None)[:, :width])

    return flow


def _raft(device: torch.device | str) -> Flow:
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    file = torch_hub_file(Raft_Small_Weights.C_T_V2.url, "the flow raft", "use the flow dis, which needs none")
    network = raft_small()
    network.load_state_dict(load_tensors(file))
    network.requires_grad_(False).eval().to(device)

    @torch.inference_mode()
    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        height, width = first.shape[:2]
        sides = [
            max(128, -(-side // 8) * 8) for side in (height, width)
        ]  # the least that its correlation pyramid takes
        padding = (0, sides[1] - width, 0, sides[0] - height)
        pair = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1 for frame in (first, second)]
        flows: list[Tensor] = network(*(F.pad(frame, padding, mode="replicate").to(device) for frame in pair))
        estimate: np.ndarray = flows[-1][0, :, :height, :width].permute(1, 2, 0).cpu().contiguous().numpy()
        return estimate

    return flow
