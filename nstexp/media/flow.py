"""Motion between the frames of a clip: optical flow, where it can be trusted, and the flicker that it measures.

Frames are RGB uint8 (H, W, 3) arrays, as they come out of a decoder; flows inside `Motion` are (H, W, 2) arrays, (u, v)
in pixels to the right and down. The formulas of the papers take tensors, (B, C, H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.errors import UserError, choice
from nstexp.core.names import FlowName
from nstexp.core.networks.pretrained import load_tensors, torch_hub_file

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two frames -> (H, W, 2): where each pixel of the first went
LONGEST_SIDE_PX = 640  # larger frames are reduced to this for the flow, which is then enlarged
COLOR_TOLERANCE = 0.05  # a warped frame that is this far from the new one, root mean square, is trusted 1/e of the way
CUT_BELOW = 0.15  # mean trust of a frame that shows something else than the one before


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Backward warping: at every position x what `image` has at x + flow(x), interpolated bilinearly.

    Args:
        image: (B, C, H, W).
        flow: (B, 2, H, W), (u, v) = pixels to the right and down.

    Returns:
        (B, C, H, W); positions outside the image have the value of its nearest border pixel.
    """
    height, width = image.shape[-2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = flow[:, 1] + torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    return F.grid_sample(image, grid.to(image), mode="bilinear", padding_mode="border", align_corners=True)


def reliability(forward: Tensor, backward: Tensor) -> Tensor:
    """Where the flow can be trusted: (B, 1, H, W) of 1 and, where it cannot, 0, of the frame that `forward` starts at.

    Ruder et al. 2016. With w the forward flow and w' the backward flow at the place where w leads, a position
    has no partner (is covered later) if |w + w'|^2 > 0.01 (|w|^2 + |w'|^2) + 0.5, is at a motion boundary if
    |grad u|^2 + |grad v|^2 > 0.01 |w|^2 + 0.002 (differences to the next pixel), and is left out too if w leads outside
    the frame. The paper's masks, of the later frame, are `reliability(backward, forward)`.

    Args:
        forward, backward: (B, 2, H, W), (u, v) in pixels, from a frame to the next one and back.
    """
    pairs = zip(forward.detach().cpu(), backward.detach().cpu(), strict=True)
    masks = [_mask(*(flow.float().permute(1, 2, 0).numpy() for flow in pair)) for pair in pairs]
    return torch.from_numpy(np.stack(masks))[:, None].to(forward)


def warping_error(frames: Tensor, flows: Tensor, masks: Tensor | None = None) -> float:
    """Flicker of a video: mean squared difference of every frame to the next one, warped back onto it; 0 or larger.

    Lai et al. 2018: the mean over visible positions and channels, then over the pairs of frames. A pair in which
    nothing is visible does not count.

    Args:
        frames: (T, 3, H, W) in [0, 1].
        flows: (T - 1, 2, H, W), from each frame to the next, see `warp`.
        masks: (T - 1, 1, H, W), how far each position counts, see `reliability`; None: all positions do.

    Raises:
        UserError: fewer than two frames, or nothing visible in any pair.
    """
    masks = torch.ones_like(flows[:, :1]) if masks is None else masks
    errors = []
    for t, (flow, mask) in enumerate(zip(flows, masks, strict=True)):
        squares = (frames[t] - warp(frames[t + 1][None], flow[None])[0]).square().mean(0, keepdim=True)
        if mask.any():
            errors.append(float((mask * squares).sum() / mask.sum()))
    if not errors:
        raise UserError("warping error: no pair of frames with a visible position in common")
    return sum(errors) / len(errors)


# --------------------------------------------------------------------------------------------------------------- motion


@dataclass(frozen=True)
class Motion:
    """From the frame before to this one, in pixels of frames of some size (`MotionEstimator`).

    Args:
        forward, backward: (H, W, 2) float32, from the frame before to this one, and back.
        visible: (H, W) uint8, 255 where a pixel of the frame before is still there: `reliability(forward, backward)`.
        trust: (H, W) float32 in [0, 1], how far what is warped from the frame before belongs here: the paper's mask of
            this frame, times exp(-d^2 / 0.05^2) with d the difference of the frames along the flow, smoothed.
        cut: whether this frame begins another scene.
    """

    forward: np.ndarray
    backward: np.ndarray
    visible: np.ndarray
    trust: np.ndarray
    cut: bool

    def from_before(self, picture: np.ndarray) -> np.ndarray:
        """What the frame before became, float32 (H, W, 3) in [0, 1], moved to where this frame has it (bicubic)."""
        return np.clip(_remap(picture, self.backward, smooth=True), 0, 1)


class MotionEstimator:
    """Motion from each frame of a clip to the next one.

    Args:
        name: `dis` (Kroeger et al. 2016, OpenCV's medium preset), `dis_fast` (its fast preset), or `raft` (Teed & Deng
            2020, torchvision's small network, whose weights are downloaded once).
        size: (height, width) that flows and masks are scaled to.
        device: where `raft` computes; the others know the CPU only.

    Raises:
        UserError: an unknown name, or no weights.
    """

    def __init__(self, name: FlowName, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        choice("name", name, get_args(FlowName))
        self.flow = _raft(device) if name == "raft" else _dis(fast=name == "dis_fast")
        self.size = size

    def __call__(self, before: np.ndarray, now: np.ndarray) -> Motion:
        """Of two frames of equal size, uint8 (H, W, 3)."""
        import cv2

        before, now = self._reduced(before), self._reduced(now)
        forward, backward = self.flow(before, now), self.flow(now, before)
        visible, kept = (_mask(*flows) for flows in ((forward, backward), (backward, forward)))
        squares = cv2.absdiff(_remap(before, backward), now).astype(np.float32) ** 2
        difference = cv2.GaussianBlur(squares.mean(2), (0, 0), 1.5) / 255**2
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
        scale = np.array([self.size[1] / width, self.size[0] / height], np.float32)
        return cv2.resize(flow, self.size[::-1], interpolation=cv2.INTER_LINEAR) * scale


class Flicker:
    """`warping_error` of a clip whose frames come one by one, rounded to 8 bits as they are saved."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def add(self, before: np.ndarray, now: np.ndarray, motion: Motion | None) -> float | None:
        """Of two frames, uint8 (H, W, 3), and the motion between them; None: nothing is visible in both.

        Without a motion the clip stood still, and the error is that of the pixels where they are.
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
    """`reliability` of (H, W, 2) arrays -> (H, W).

    Not by PyTorch, which in the thread of the decoder would take as many threads again as it does for the networks.
    """
    height, width = forward.shape[:2]
    x, y = _places(forward)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    back = _remap(np.ascontiguousarray(backward), forward)
    size, back_size, gap = (np.square(flow).sum(2) for flow in (forward, back, forward + back))
    steps = np.zeros((height, width), np.float32)
    steps[:-1] += np.square(forward[1:] - forward[:-1]).sum(2)
    steps[:, :-1] += np.square(forward[:, 1:] - forward[:, :-1]).sum(2)
    lost = gap > 0.01 * (size + back_size) + 0.5
    boundary = steps > 0.01 * size + 0.002
    return (inside & ~lost & ~boundary).astype(np.float32)


def _places(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a flow (H, W, 2) leads, x and y of (H, W)."""
    height, width = flow.shape[:2]
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    return flow[..., 0] + columns, flow[..., 1] + rows[:, None]


def _remap(picture: np.ndarray, flow: np.ndarray, smooth: bool = False) -> np.ndarray:
    """`warp` of (H, W, 3) arrays."""
    import cv2

    x, y = _places(flow)
    interpolation = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    return cv2.remap(picture, x, y, interpolation, borderMode=cv2.BORDER_REPLICATE)


def _dis(fast: bool) -> Flow:
    import cv2

    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    algorithm = cv2.DISOpticalFlow_create(preset)
    smallest = 16  # px; OpenCV fails on smaller ones
    narrowest = 48  # px; of frames from 40 px on, it makes other flows each time, by what was in memory before

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
        sides = [max(128, -(-side // 8) * 8) for side in (height, width)]  # of its pyramid of correlations
        padding = (0, sides[1] - width, 0, sides[0] - height)
        pair = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1 for frame in (first, second)]
        found = network(*(F.pad(frame, padding, mode="replicate").to(device) for frame in pair))[-1]
        return found[0, :, :height, :width].permute(1, 2, 0).cpu().contiguous().numpy()

    return flow
