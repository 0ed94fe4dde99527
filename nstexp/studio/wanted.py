"""What a browser asks for, checked, and as the words of a command line."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nstexp.core.errors import ArgumentError, choice, number, whole
from nstexp.media import samples

METHODS = ("swift", "adain", "cin", "gatys")
STYLE_PX = 512  # `method.style_px` of the fast networks unless it is set: strokes of the usual size
LEAST_STYLE_PX = 64
MOST_STYLES, MOST_SIDE_PX = 4, 4096
COLORS = ("none", "preserve", "luminance", "match")
PLAIN = re.compile(r"(?!\d+$)[\w./:-]+", re.ASCII)  # texts that need no quotes for Hydra
BETA, ALPHA, STEPS, PROTECTION = 1000.0, 1.0, 200, 0.7  # what the configuration has unless it is set
OF_THE_REQUEST = ("color", "color_strength", "photorealism", "protect_strength", "seed")
Finder = Callable[[str, str], str]  # (key, name that the browser sent) -> a path or a built-in name


@dataclass(frozen=True)
class Wanted:
    """A picture to make.

    Args:
        method: one of METHODS.
        content: the photo: a path or a built-in name.
        styles: one to four paintings: paths, built-in names, or with method=cin names of learned styles.
        shares: one number for each style, or none for equal shares.
        masks: one file for each style, or none.
        alpha: amount of style of swift and adain, 0 to 1.
        beta: weight of the style terms of gatys.
        stroke: size of the strokes, as a factor on the usual one.
        color, color_strength, photorealism, protect_strength, image_px, seed: see `tasks.request.Request`.
        protect: `faces`, files of masks, or both.
        steps: of gatys.
    """

    method: str
    content: str
    styles: tuple[str, ...]
    shares: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()
    alpha: float = ALPHA
    beta: float = BETA
    stroke: float = 1.0
    color: str = "none"
    color_strength: float = 1.0
    photorealism: float = 0.0
    protect: tuple[str, ...] = ()
    protect_strength: float = PROTECTION
    image_px: int | None = None
    steps: int = STEPS
    seed: int = 0

    @classmethod
    def of(cls, sent: Mapping[str, Any], file_of: Finder) -> "Wanted":
        """Check what a browser sent.

        Args:
            sent: the keys of this class; `content`, `styles`, `masks` and `protect` hold names for `file_of`.
            file_of: finds the file of a name, and raises a UserError if there is none.

        Raises:
            UserError: a value that the command line would refuse, too.
        """
        method = choice("method", str(sent.get("method")), METHODS)
        styles = _names("style", sent.get("styles"), 1)
        if method != "cin":
            styles = [file_of("style", name) for name in styles]
        elif unknown := [name for name in styles if name not in samples.learned_styles()]:
            raise ArgumentError("style", f"={unknown[0]}: the network of method=cin has not learned this style")
        masks = [file_of("masks", name) for name in _names("masks", sent.get("masks") or [], 0)]
        if masks and len(masks) != len(styles):
            raise ArgumentError("masks", f": {len(masks)} masks for {len(styles)} paintings; give one for each")
        shares = _listed("style_weights", sent.get("shares") or [])
        if shares and (len(shares) != len(styles) or not sum(number("style_weights", x, 0, 1e6) for x in shares)):
            raise ArgumentError("style_weights", f"={shares}: give one number for each painting, and not only zeros")
        protect = _names("protect", sent.get("protect") or [], 0)
        given = {key: sent[key] for key in ("image_px", "seed", "steps") if sent.get(key) is not None}
        numbers = {
            "alpha": number("method.alpha", sent.get("alpha", ALPHA), 0, 1),
            "beta": number("weights.beta", sent.get("beta", BETA), 0, 1e9),
            "stroke": number("stroke", sent.get("stroke", 1.0), 0.125, 8),
            "color_strength": number("color_strength", sent.get("color_strength", 1.0), 0, 1),
            "photorealism": number("photorealism", sent.get("photorealism", 0.0), 0, 1),
            "protect_strength": number("protect_strength", sent.get("protect_strength", PROTECTION), 0, 1),
        }
        return cls(
            method,
            file_of("content", _name("content", sent.get("content"))),
            tuple(styles),
            tuple(map(float, shares)),
            tuple(masks),
            color=choice("color", sent.get("color", "none"), COLORS),
            protect=tuple(name if name == "faces" else file_of("protect", name) for name in protect),
            image_px=whole("image_px", given["image_px"], 32, MOST_SIDE_PX) if "image_px" in given else None,
            steps=whole("method.max_steps", given.get("steps", STEPS), 1, 5000),
            seed=whole("seed", given.get("seed", 0), 0, 2**31),
            **numbers,
        )

    def words(self) -> list[str]:
        """The command line behind `nstexp`, one word for each key that is not at its default."""
        words = [f"method={self.method}", f"content={_value(self.content)}", f"style={_values(self.styles)}"]
        if self.shares and len(set(self.shares)) > 1:
            words.append(f"style_weights=[{','.join(map(_short, self.shares))}]")
        if self.masks and len(self.styles) > 1:
            words.append(f"masks={_values(self.masks, several=True)}")
        words += [f"{key}={value}" for key, value in self._settings()]
        return [*words, "logger=none"]

    def _settings(self) -> list[tuple[str, Any]]:
        """The keys with numbers and choices that are not at their defaults, and their values."""
        fast, optimized = self.method in ("swift", "adain"), self.method == "gatys"
        scaled, style_px = self.method in ("swift", "gatys"), max(LEAST_STYLE_PX, round(STYLE_PX * self.stroke))
        protected = _values(self.protect) if self.protect else ""
        less = bool(protected) and self.protect_strength != PROTECTION
        candidates: list[tuple[bool, str, Any]] = [
            (fast and self.alpha != ALPHA, "method.alpha", _short(self.alpha)),
            (fast and not scaled and style_px != STYLE_PX, "method.style_px", style_px),
            (optimized and self.beta != BETA, "weights.beta", _short(self.beta)),
            (scaled and self.stroke != 1, "method.style_scale", _short(self.stroke)),
            (optimized and self.steps != STEPS, "method.max_steps", self.steps),
            (self.color != "none", "color", self.color),
            (self.color != "none" and self.color_strength != 1, "color_strength", _short(self.color_strength)),
            (self.photorealism != 0, "photorealism", _short(self.photorealism)),
            (bool(protected), "protect", protected),
            (less, "protect_strength", _short(self.protect_strength)),
            (self.image_px is not None, "image_px", self.image_px),
            (self.seed != 0, "seed", self.seed),
        ]
        return [(key, value) for applies, key, value in candidates if applies]

    def command(self) -> str:
        """The command for a shell."""
        return shlex.join(["nstexp", *self.words()])

    def preview(self, px: int, whole_px: int, of_clip: bool = False) -> dict[str, Any]:
        """The payload of `painting.preview`, with strokes that are as large beside the photo as in the whole picture.

        Args:
            px: longer side of the preview, in pixels.
            whole_px: longer side of the whole picture.
            of_clip: whether it is a frame of a clip.

        Raises:
            ArgumentError: the method is too slow for previews.
        """
        if self.method == "gatys":
            raise ArgumentError("method", "=gatys takes minutes for a picture, so there are no previews")
        px = min(px, whole_px)
        settings: dict[str, Any] = {}
        if self.method != "cin":
            stroke = 1.0 if self.method == "swift" else self.stroke
            style_px = max(LEAST_STYLE_PX, round(STYLE_PX * stroke * px / whole_px))
            settings = {"alpha": self.alpha, "style_px": style_px}
        if self.method == "swift":
            settings["style_scale"] = self.stroke
            settings |= {"tones": 0.0} if of_clip else {}  # as the method itself treats clips
        request: dict[str, Any] = {
            "content": self.content,
            "style": list(self.styles),
            "masks": list(self.masks) if self.masks and len(self.styles) > 1 else None,
            "protect": list(self.protect) or None,
            "image_px": px,
            **{key: getattr(self, key) for key in OF_THE_REQUEST},
        }
        return {"method": self.method, "settings": settings, "request": request, "shares": list(self.shares)}


def _short(value: float) -> str:
    """A number with up to four digits, without trailing zeros."""
    return f"{value:.4g}"


def _value(name: str) -> str:
    """A name as Hydra reads it."""
    if PLAIN.fullmatch(name):
        return name
    from nstexp.config.quoting import in_quotes  # with Hydra, which takes a second

    return in_quotes(name)


def _values(names: Sequence[str], several: bool = False) -> str:
    """One name, or a list of names."""
    if len(names) == 1 and not several:
        return _value(names[0])
    return f"[{','.join(map(_value, names))}]"


def _listed(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_STYLES:
        raise ArgumentError(key, f": give a list of up to {MOST_STYLES} entries")
    return value


def _names(key: str, value: Any, least: int) -> list[str]:
    names = [_name(key, name) for name in _listed(key, value)]
    if len(names) < least:
        raise ArgumentError(key, " is empty: choose a painting")
    return names


def _name(key: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ArgumentError(key, " is empty: choose a picture")
    return value
