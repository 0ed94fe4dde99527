"""Measures of faults that the eye sees at once and statistics of features do not: false chroma, halos and weaves."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.color import luminance
from nstexp.core.losses.transport import quantiles
from nstexp.core.measures.terms import Role
from nstexp.core.networks.encoder import IMAGE, Features
from nstexp.core.resize import resize, size_for_longer_side

QUANTILES = 256
WHITE = (0.95047, 1.0, 1.08883)  # D65
XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
HALO_PX = 512  # longer side at which halos are looked for
SMOOTHING_PX = 1.5  # of the luminance in which edges are searched
EDGES = 0.03  # the share of the pixels that are strong edges: those with the largest gradients
WEAKEST = 0.02  # gradient of an edge, for each pixel
NEAR_PX, FAR_PX = (5.0, 14.0), (20.0, 28.0)  # from an edge: where a halo is, and the plain behind it
PLAIN = 0.06  # largest difference of luminance in a plain
TILE_PX = 32  # side of the flat areas in which weaves are looked for
FLAT = 0.25  # the share of the tiles that are the flat ones: those of the photo with the least contrast
OF_WINDOW = 2.25  # the variance of a wave, in units of what the window leaves of it in its lines
PERIODS_PX = (2, 4, 8)  # of weaves: what enlarging by 2, 4 and 8 leaves


# ---------------------------------------------------------------------------------------------------------- chroma


def lab(pictures: Tensor) -> Tensor:
    """CIE 1976 L*a*b* (D65) of sRGB pictures (..., 3, H, W) in [0, 1], float64."""
    x = pictures.double().clamp(0, 1)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(XYZ_OF_RGB, dtype=x.dtype, device=x.device)
    xyz = torch.einsum("dc,...chw->...dhw", matrix, linear) / x.new_tensor(WHITE)[:, None, None]
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    a, b, c = f.unbind(-3)
    return torch.stack([116 * b - 16, 500 * (a - b), 200 * (b - c)], -3)


def chroma_values(picture: Tensor) -> Tensor:
    """CIELAB chroma, the distance from gray, of a picture (3, H, W) in [0, 1]: (H, W), 0 to about 130."""
    return lab(picture)[-2:].norm(dim=-3)


def chroma_distance(a: Tensor, b: Tensor) -> float:
    """Wasserstein distance of the CIELAB chroma of two pictures (3, H, W) in [0, 1] of any sizes, in units of L*a*b*.

    A gray painting and a colored result are as far apart as the result's mean chroma.
    """
    return _distance(_quantiles(a), _quantiles(b))


def _quantiles(picture: Tensor) -> Tensor:
    return quantiles(chroma_values(picture.cpu()).flatten().sort().values[None, None], QUANTILES)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


class Chroma:
    """`chroma_distance` of the picture and a painting."""

    role: Role = "style"
    layers = ()
    unit = "Wasserstein distance of CIELAB chroma"

    def target(self, feats: Features) -> Tensor:
        return _quantiles(feats[IMAGE][0])

    def forward(self, feats: Features, target: Tensor) -> float:
        return _distance(_quantiles(feats[IMAGE][0]), target)


# ------------------------------------------------------------------------------------------------------------ halos


def halo(picture: Tensor, photo: Tensor) -> float:
    """How much brighter the plain beside something dark is next to the edge than further away, such as the sky round a
    steeple, in standard deviations of the picture's luminance.

    Strong edges of the photo count on whose bright side the photo is plain; a photo without them has 0.

    Args:
        picture, photo: (3, H, W) in [0, 1], of one size.
    """
    return _halo(picture, *_plain_sides(photo))


def _plain_sides(photo: Tensor) -> tuple[Tensor, Tensor]:
    """The strong edges on whose bright side a photo is plain: places (N, 2), x and y in pixels, and directions (N, 2)
    into the plain."""
    light = _light(photo)
    dy, dx = torch.gradient(_blurred(light, SMOOTHING_PX)[0, 0])
    strength = torch.hypot(dx, dy)
    border = round(FAR_PX[1]) + 1
    inside = torch.zeros_like(strength, dtype=torch.bool)
    inside[border:-border, border:-border] = True
    strength = (strength * inside).flatten()
    place = strength.topk(max(1, round(EDGES * strength.numel()))).indices
    place = place[strength[place] > WEAKEST]
    places = torch.stack([place % light.shape[-1], place // light.shape[-1]], 1).to(light)
    directions = torch.stack([dx.flatten()[place], dy.flatten()[place]], 1) / strength[place, None].clamp(min=1e-9)
    seen = _along(light, places, directions, SMOOTHING_PX + 2, FAR_PX[1], 20)
    plain = seen.amax(1) - seen.amin(1) < PLAIN
    return places[plain], directions[plain]


def _halo(picture: Tensor, places: Tensor, directions: Tensor) -> float:
    light = _light(picture)
    std = float(light.std())
    if not len(places) or std < 1e-4:
        return 0.0
    near, far = (_along(light, places, directions, *reach, 5) for reach in (NEAR_PX, FAR_PX))
    return float((near.mean(1) - far.mean(1)).mean()) / std


def _along(light: Tensor, places: Tensor, directions: Tensor, start: float, end: float, steps: int) -> Tensor:
    """Luminance on the way from each place in a direction, between two distances from it: (N, steps)."""
    height, width = light.shape[-2:]
    distances = torch.linspace(start, end, steps, dtype=light.dtype)
    points = places[:, None] + directions[:, None] * distances[:, None]
    grid = points / points.new_tensor([width - 1, height - 1]) * 2 - 1
    return F.grid_sample(light, grid[None], align_corners=True, padding_mode="border")[0, 0]


def _light(picture: Tensor) -> Tensor:
    """Luminance at the size at which halos are looked for, (1, 1, H, W) float64."""
    size = tuple(picture.shape[-2:])
    small = resize(picture.float().cpu(), size_for_longer_side(size, HALO_PX)) if max(size) > HALO_PX else picture
    return luminance(small).cpu().double().reshape(1, 1, *small.shape[-2:])


def _blurred(x: Tensor, sigma: float) -> Tensor:
    at = torch.arange(-round(3 * sigma), round(3 * sigma) + 1, dtype=x.dtype)
    weights = torch.exp(-0.5 * (at / sigma).square())
    weights, edge = weights / weights.sum(), len(at) // 2
    x = F.conv2d(F.pad(x, (edge, edge, 0, 0), mode="replicate"), weights.view(1, 1, 1, -1))
    return F.conv2d(F.pad(x, (0, 0, edge, edge), mode="replicate"), weights.view(1, 1, -1, 1))


class Halo:
    """`halo` of the picture along the photo's edges, beyond the photo's own."""

    role: Role = "content"
    layers = ()
    unit = "luminance of plains beside dark things, near against far, beyond the photo's own, in standard deviations"
    min_side_px = 2 * round(FAR_PX[1]) + 8

    def target(self, feats: Features) -> dict[str, Tensor]:
        places, directions = _plain_sides(feats[IMAGE][0])
        own = torch.tensor(_halo(feats[IMAGE][0], places, directions), dtype=torch.float64)
        return {"places": places, "directions": directions, "own": own}

    def forward(self, feats: Features, target: dict[str, Tensor]) -> float:
        return _halo(feats[IMAGE][0], target["places"], target["directions"]) - float(target["own"])


# ------------------------------------------------------------------------------------------------------------ weaves


def weave(picture: Tensor, photo: Tensor) -> float:
    """How strong patterns with a period of 2, 4 or 8 px are where the photo is flat: their standard deviation in gray
    levels (0 to 255).

    From the power that the luminance of tiles of 32 px has at those periods, horizontally, vertically or both, beyond
    the power of the neighboring frequencies. Strokes have no such lines in their spectrum.

    Args:
        picture, photo: (3, H, W) in [0, 1], of one size.
    """
    return _weave(picture, _flat_tiles(photo))


def _tiles(picture: Tensor) -> Tensor:
    """Luminance of whole tiles, (N, 32, 32) float64."""
    light = luminance(picture).cpu().double().reshape(picture.shape[-2:])
    return light.unfold(0, TILE_PX, TILE_PX).unfold(1, TILE_PX, TILE_PX).reshape(-1, TILE_PX, TILE_PX)


def _flat_tiles(photo: Tensor) -> Tensor:
    contrast = _tiles(photo).flatten(1).std(1)
    return contrast.topk(max(1, round(FLAT * len(contrast))), largest=False).indices


def _weave(picture: Tensor, which: Tensor) -> float:
    tiles = _tiles(picture)[which]
    window = torch.hann_window(TILE_PX, dtype=tiles.dtype)
    window = window[:, None] * window
    centered = tiles - tiles.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(centered * window).abs().square() / window.square().sum() / TILE_PX**2
    mean = power.mean(0)
    lines = sorted({line for period in PERIODS_PX for line in (TILE_PX // period, TILE_PX - TILE_PX // period)})
    places = [(row, column) for row in (0, *lines) for column in (0, *lines) if row or column]
    excess = sum(max(0.0, float(mean[place] - _around(mean, *place))) for place in places)
    return 255 * (OF_WINDOW * excess) ** 0.5


def _around(power: Tensor, row: int, column: int) -> Tensor:
    """Median power of the frequencies around one, two or three bins away, where its own line has no part."""
    offsets = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) >= 2]
    return torch.stack([power[(row + i) % TILE_PX, (column + j) % TILE_PX] for i, j in offsets]).median()


class Weave:
    """`weave` of the picture, beyond that of the photo itself."""

    role: Role = "content"
    layers = ()
    unit = "patterns of 2, 4 and 8 px in flat areas beyond the photo's own, in gray levels"
    min_side_px = TILE_PX

    def target(self, feats: Features) -> dict[str, Tensor]:
        photo = feats[IMAGE][0]
        which = _flat_tiles(photo)
        return {"which": which, "own": torch.tensor(_weave(photo, which), dtype=torch.float64)}

    def forward(self, feats: Features, target: dict[str, Tensor]) -> float:
        return _weave(feats[IMAGE][0], target["which"]) - float(target["own"])
