"""Measures of visible faults that feature statistics miss: false chroma, halos, and woven (fine periodic) patterns."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nstexp.core.color import luminance
from nstexp.core.losses.transport import quantiles
from nstexp.core.measures.terms import PictureRole
from nstexp.core.networks.encoder import IMAGE, Features
from nstexp.core.resize import resize, size_for_longer_side

QUANTILES = 256
WHITE = (0.95047, 1.0, 1.08883)  # D65
XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
HALO_PX = 512  # longer side of the pictures in which halos are measured
SMOOTHING_PX = 1.5  # sigma of the Gaussian blur before the edge detection
EDGES = 0.03  # share of the pixels, those with the largest gradients, that count as edges
WEAKEST = 0.02  # smallest luminance gradient of an edge, per pixel
NEAR_PX, FAR_PX = (5.0, 14.0), (20.0, 28.0)  # distances from an edge: the place of a halo, and the background beyond
PLAIN = 0.06  # largest luminance range of a plain background
TILE_PX = 32  # side of the tiles in which weaves are measured
FLAT = 0.25  # share of the tiles, those with the least contrast in the photo, that count as flat
WINDOW_LOSS = 2.25  # variance of a wave, divided by the power that the window leaves in the wave's spectral lines
PERIODS_PX = (2, 4, 8)  # periods of weaves: the patterns that upsampling by 2, 4 and 8 leaves


# ---------------------------------------------------------------------------------------------------------- chroma


def lab(pictures: Tensor) -> Tensor:
    """sRGB pictures (..., 3, H, W) in [0, 1] -> CIE 1976 L*a*b* with white point D65, same shape, float64.

    Examples:
        >>> [round(value, 2) + 0.0 for value in lab(torch.ones(3, 1, 1)).flatten().tolist()]  # white
        [100.0, 0.0, 0.0]
    """
    x = pictures.double().clamp(0, 1)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(XYZ_OF_RGB, dtype=x.dtype, device=x.device)
    xyz = torch.einsum("dc,...chw->...dhw", matrix, linear) / x.new_tensor(WHITE)[:, None, None]
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    a, b, c = f.unbind(-3)
    channels: list[Tensor] = [116 * b - 16, 500 * (a - b), 200 * (b - c)]
    return torch.stack(channels, -3)


def chroma_values(picture: Tensor) -> Tensor:
    """CIELAB chroma, the distance from gray, of a picture (3, H, W) in [0, 1] -> (H, W), 0 to about 130.

    Examples:
        >>> round(chroma_values(torch.full((3, 1, 1), 0.5)).item(), 2)
        0.0
    """
    values: Tensor = lab(picture)[-2:].norm(dim=-3)
    return values


def chroma_distance(a: Tensor, b: Tensor) -> float:
    """Wasserstein distance of the CIELAB chroma of two pictures (3, H, W) in [0, 1] of any sizes, in units of L*a*b*.

    The distance of a colored result from a gray painting is the mean chroma of the result.

    Examples:
        >>> picture = torch.rand(3, 8, 8)
        >>> chroma_distance(picture, picture)
        0.0
    """
    return _distance(_quantiles(a), _quantiles(b))


def _quantiles(picture: Tensor) -> Tensor:
    return quantiles(chroma_values(picture.cpu()).flatten().sort().values[None, None], QUANTILES)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


class Chroma:
    """`chroma_distance` of the picture and a painting."""

    role: PictureRole = "style"
    layers = ()
    unit = "Wasserstein distance of CIELAB chroma"

    def target(self, feats: Features) -> Tensor:
        return _quantiles(feats[IMAGE][0])

    def forward(self, feats: Features, target: Tensor) -> float:
        return _distance(_quantiles(feats[IMAGE][0]), target)


# ------------------------------------------------------------------------------------------------------------ halos


def halo(picture: Tensor, photo: Tensor) -> float:
    """Strength of bright halos around dark objects, such as a steeple before the sky.

    The measure is the luminance of the background close to an edge minus the luminance further away, averaged over
    edges and divided by the standard deviation of the picture's luminance. Only strong edges of the photo count, and
    only if the photo is plain on their bright side; without such edges the value is 0.

    Args:
        picture, photo: (3, H, W) in [0, 1], of equal size.

    Examples:
        >>> plain = torch.full((3, 64, 64), 0.5)
        >>> halo(plain, plain)
        0.0
    """
    return _halo(picture, *_plain_sides(photo))


def _plain_sides(photo: Tensor) -> tuple[Tensor, Tensor]:
    """Strong edges of a photo that is plain on their bright side.

    Returns:
        Places (N, 2), x and y in pixels, and unit vectors (N, 2) from the edges into the plain side.
    """
    light = _light(photo)
    dy, dx = torch.gradient(_blurred(light, SMOOTHING_PX)[0, 0])
    strength = torch.hypot(dx, dy)
    border = round(FAR_PX[1]) + 1
    inside = torch.zeros_like(strength, dtype=torch.bool)
    inside[border:-border, border:-border] = True
    strength = (strength * inside).flatten()
    indices = strength.topk(max(1, round(EDGES * strength.numel()))).indices
    indices = indices[strength[indices] > WEAKEST]
    places = torch.stack([indices % light.shape[-1], indices // light.shape[-1]], 1).to(light)
    gradients = torch.stack([dx.flatten()[indices], dy.flatten()[indices]], 1)
    directions = gradients / strength[indices, None].clamp(min=1e-9)
    profiles = _along(light, places, directions, SMOOTHING_PX + 2, FAR_PX[1], 20)
    plain = profiles.amax(1) - profiles.amin(1) < PLAIN
    return places[plain], directions[plain]


def _halo(picture: Tensor, places: Tensor, directions: Tensor) -> float:
    light = _light(picture)
    std = float(light.std())
    if not len(places) or std < 1e-4:
        return 0.0
    near, far = (_along(light, places, directions, *distances, 5) for distances in (NEAR_PX, FAR_PX))
    return float((near.mean(1) - far.mean(1)).mean()) / std


def _along(light: Tensor, places: Tensor, directions: Tensor, start: float, end: float, steps: int) -> Tensor:
    """Luminance at equal steps along rays from the places, between the distances `start` and `end` -> (N, steps)."""
    height, width = light.shape[-2:]
    distances = torch.linspace(start, end, steps, dtype=light.dtype)
    points = places[:, None] + directions[:, None] * distances[:, None]
    grid = points / points.new_tensor([width - 1, height - 1]) * 2 - 1
    return F.grid_sample(light, grid[None], align_corners=True, padding_mode="border")[0, 0]


def _light(picture: Tensor) -> Tensor:
    """Luminance of a picture, reduced to a longer side of at most `HALO_PX` -> (1, 1, H, W), float64."""
    size = (picture.shape[-2], picture.shape[-1])
    small = resize(picture.float().cpu(), size_for_longer_side(size, HALO_PX)) if max(size) > HALO_PX else picture
    return luminance(small).cpu().double().reshape(1, 1, *small.shape[-2:])


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (1, 1, H, W), cut off at 3 sigma."""
    offsets = torch.arange(-round(3 * sigma), round(3 * sigma) + 1, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights, edge = weights / weights.sum(), len(offsets) // 2
    x = F.conv2d(F.pad(x, (edge, edge, 0, 0), mode="replicate"), weights.view(1, 1, 1, -1))
    return F.conv2d(F.pad(x, (0, 0, edge, edge), mode="replicate"), weights.view(1, 1, -1, 1))


class Halo:
    """`halo` of the picture minus `halo` of the photo."""

    role: PictureRole = "content"
    layers = ()
    unit = "luminance near dark objects minus luminance further away, in standard deviations, minus that of the photo"
    min_side_px = 2 * round(FAR_PX[1]) + 8

    def target(self, feats: Features) -> dict[str, Tensor]:
        places, directions = _plain_sides(feats[IMAGE][0])
        photo_halo = torch.tensor(_halo(feats[IMAGE][0], places, directions), dtype=torch.float64)
        return {"places": places, "directions": directions, "photo": photo_halo}

    def forward(self, feats: Features, target: dict[str, Tensor]) -> float:
        return _halo(feats[IMAGE][0], target["places"], target["directions"]) - float(target["photo"])


# ------------------------------------------------------------------------------------------------------------ weaves


def weave(picture: Tensor, photo: Tensor) -> float:
    """Standard deviation, in gray levels (0 to 255), of patterns with a period of 2, 4 or 8 px in flat areas.

    The flat areas are the tiles of 32 px with the least contrast in the photo. In their luminance spectra, the power at
    these periods (horizontal, vertical or both) counts as far as it exceeds the power of nearby frequencies. Brush
    strokes have no such spectral lines.

    Args:
        picture, photo: (3, H, W) in [0, 1], of equal size, at least 32 px on each side.

    Examples:
        >>> plain = torch.full((3, 32, 32), 0.5)
        >>> weave(plain, plain)
        0.0
    """
    return _weave(picture, _flat_tiles(photo))


def _tiles(picture: Tensor) -> Tensor:
    """Luminance of the picture's complete tiles -> (N, 32, 32), float64."""
    light = luminance(picture).cpu().double().reshape(picture.shape[-2:])
    return light.unfold(0, TILE_PX, TILE_PX).unfold(1, TILE_PX, TILE_PX).reshape(-1, TILE_PX, TILE_PX)


def _flat_tiles(photo: Tensor) -> Tensor:
    """Indices of the photo's tiles with the least contrast."""
    contrast = _tiles(photo).flatten(1).std(1)
    return contrast.topk(max(1, round(FLAT * len(contrast))), largest=False).indices


def _weave(picture: Tensor, flat_tiles: Tensor) -> float:
    tiles = _tiles(picture)[flat_tiles]
    window = torch.hann_window(TILE_PX, dtype=tiles.dtype)
    window = window[:, None] * window
    centered = tiles - tiles.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(centered * window).abs().square() / window.square().sum() / TILE_PX**2
    mean = power.mean(0)
    lines = sorted({line for period in PERIODS_PX for line in (TILE_PX // period, TILE_PX - TILE_PX // period)})
    places = [(row, column) for row in (0, *lines) for column in (0, *lines) if row or column]
    excess = sum(max(0.0, float(mean[place] - _nearby_power(mean, *place))) for place in places)
    return float(255 * (WINDOW_LOSS * excess) ** 0.5)


def _nearby_power(power: Tensor, row: int, column: int) -> Tensor:
    """Median power two or three bins away from a frequency, where the window does not spread the frequency's power."""
    offsets = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) >= 2]
    return torch.stack([power[(row + i) % TILE_PX, (column + j) % TILE_PX] for i, j in offsets]).median()


class Weave:
    """`weave` of the picture minus `weave` of the photo."""

    role: PictureRole = "content"
    layers = ()
    unit = "patterns of 2, 4 and 8 px in flat areas, in gray levels, minus those of the photo"
    min_side_px = TILE_PX

    def target(self, feats: Features) -> dict[str, Tensor]:
        photo = feats[IMAGE][0]
        flat_tiles = _flat_tiles(photo)
        return {"flat_tiles": flat_tiles, "photo": torch.tensor(_weave(photo, flat_tiles), dtype=torch.float64)}

    def forward(self, feats: Features, target: dict[str, Tensor]) -> float:
        return _weave(feats[IMAGE][0], target["flat_tiles"]) - float(target["photo"])
