"""`task=evaluate`: one or several methods on all pairs of photo and painting, scored by the same measures."""

import logging
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from nstexp.core.errors import Stopped, UserError, choice, whole
from nstexp.core.measures import Scorer, SetScorer
from nstexp.core.resize import resize, size_for_longer_side, size_for_shorter_side
from nstexp.media.images import load_image
from nstexp.media.paths import find_images, unique_names
from nstexp.media.sheet import miniature, thumbnail
from nstexp.methods.base import Controls, Style, Stylizer, learned_styles, size_of
from nstexp.outputs import MEAN_OF, WHY_THE_PAINTING_IS_NOT_0, RunFolder
from nstexp.tasks.color import check_learned, redraw
from nstexp.tasks.request import Request
from nstexp.tasks.sheet import evaluation_sheet
from nstexp.tasks.styles import find_styles

log = logging.getLogger(__name__)

Crop = Literal["none", "square"]
REFERENCES = ("photo", "painting")
COLD_BELOW_SECONDS = 5.0  # for slower pictures, the extra cost of the first call is small in comparison
CELL_PX, LEAST_CELL_PX, LARGEST_SIDE_PX = 256, 64, 20_000


@dataclass(frozen=True)
class Picture:
    """An input picture: its name, and RGB (3, H, W) in [0, 1]."""

    name: str
    image: Tensor


def evaluate(
    methods: Mapping[str, Stylizer],
    folder: RunFolder,
    request: Request,
    scorer: Scorer | None,
    crop: Crop = "none",
    curve_every_n_steps: int = 0,
) -> Path:
    """Stylize every content in every style with every method; returns the path of scores.csv.

    The run folder gets one PNG per pair and method, scores.csv (a row per pair and method, and rows `photo` and
    `painting` with the scores of the unchanged inputs), grid.png with all pictures, and on request curve.csv.

    The times of pictures in a style that is new to the method are reported separately (`new_style`), since they include
    the cost of the style, such as its encoding. The first picture of a fast method is timed a second time, since the
    first call of a process includes loading and compiling.

    Args:
        methods: label -> method.
        folder: the run folder.
        request: pictures, colors, size and seed. With crop=square, `image_px` is the side of photos and paintings.
        scorer: the measures; None: only measure times.
        crop: `square` resizes photos and paintings to `image_px` on the shorter side and crops to the center.
        curve_every_n_steps: steps between the scores of unfinished pictures in curve.csv; 0: no curve.

    Raises:
        UserError: invalid input; or some pictures failed (raised after all others are done).
        Stopped: interrupted.
    """
    learned = [learned_styles(method) for method in methods.values()]
    check_learned(request.color, any(names is not None for names in learned))
    _check(methods, crop, request.image_px, curve_every_n_steps, measured=scorer is not None)

    def square_or_whole(path: Path, longer_side_px: int | None, background: str = "white") -> Tensor:
        image = load_image(path, request.max_input_megapixels, background)
        return _sized(image, longer_side_px, crop, request.image_px)

    paths = find_images("" if request.content is None else request.content, "content")
    # Methods without learned styles get the pictures from which the other methods have learned.
    known = [names for names in learned if names is not None]
    merged = {name: style for names in known for name, style in names.items()}
    paintings: list[tuple[str, Path]] = []
    for name, path in find_styles(request.style, merged or None, others=len(known) < len(learned)):
        if path is None:
            raise UserError(f"style={name}: its picture, which the measures compare with, is not on this machine")
        paintings.append((name, path))
    contents = [
        Picture(name, square_or_whole(path, request.image_px, request.background))
        for name, path in zip(unique_names(paths), paths, strict=True)
    ]
    combinations = product(contents, paintings, methods)
    names = [f"{content.name}_{style}_{label}.png" for content, (style, _), label in combinations]
    folder.inputs.add([*paths, *(path for _, path in paintings)])
    folder.check("scores.csv", "grid.png", *(["curve.csv"] if curve_every_n_steps else []), *names)
    work = _Evaluation(methods, folder, scorer, request, curve_every_n_steps)
    work.total = len(contents) * len(paintings) * len(methods)
    try:
        for name, path in paintings:
            # Paintings are loaded one at a time, since they can be large.
            work.one_style(contents, Picture(name, square_or_whole(path, None)))
    except KeyboardInterrupt:
        message = f"interrupted at picture {work.begun} of {work.total}; the finished pictures are in {folder.path}"
        raise Stopped(message, interrupted=True) from None
    finally:
        work.finish(contents)
    if work.failures:
        raise UserError(f"{len(work.failures)} of {work.total} pictures failed, the first: {work.failures[0]}")
    return folder.path / "scores.csv"


def _check(
    methods: Mapping[str, Stylizer], crop: str, image_px: int | None, curve_every_n_steps: int, measured: bool
) -> None:
    whole("task.curve_every_n_steps", curve_every_n_steps)
    choice("task.crop", crop, get_args(Crop))
    if crop == "square" and image_px is None:
        raise UserError("task.crop=square needs a side: set image_px, such as image_px=512")
    if curve_every_n_steps and not measured:
        raise UserError("task.curve_every_n_steps needs measures: set measure=true and choose some by metrics=[...]")
    for label in methods:
        if label in REFERENCES or not re.fullmatch(r"[\w.+=-]+", label):
            raise UserError(
                f"task.methods: '{label}' cannot be the name of a method: use letters, digits and . _ + = - only, and "
                f"neither {' nor '.join(REFERENCES)}"
            )


class _Evaluation:
    """The rows and pictures of one evaluation so far."""

    def __init__(
        self,
        methods: Mapping[str, Stylizer],
        folder: RunFolder,
        scorer: Scorer | None,
        request: Request,
        curve_every_n_steps: int,
    ) -> None:
        self.methods, self.folder, self.scorer = methods, folder, scorer
        self.request, self.curve_every_n_steps = request, curve_every_n_steps
        self.rows: list[dict[str, Any]] = []
        self.curve: list[dict[str, Any]] = []
        self.files: dict[tuple[str, str, str], Path] = {}  # (method, style, content) -> file
        self.styles: dict[str, Image.Image] = {}  # thumbnails
        self.failures: list[str] = []
        self.total, self.begun = 0, 0
        self.warm: set[str] = set()  # methods that have made a picture
        self.sets: dict[str, SetScorer] = {}
        if scorer is not None:
            for label in (*methods, "photo"):
                if (scores := scorer.of_set()) is not None:
                    self.sets[label] = scores

    def one_style(self, contents: Sequence[Picture], style: Picture) -> None:
        """Stylize every content in one style with every method."""
        self.styles[style.name] = miniature(style.image, CELL_PX)
        for scores in self.sets.values():
            scores.add_style(style.image)
        # Each method gets the same tensor for every content, so that it recognizes a style it has processed.
        given: dict[str, Tensor] = {}
        for content, label in product(contents, self.methods):
            self.begun += 1
            log.info("picture %d of %d: %s, %s, %s", self.begun, self.total, content.name, style.name, label)
            try:
                self._one(content, style, label, given)
            except (UserError, Stopped) as error:
                if isinstance(error, Stopped) and error.interrupted:
                    raise Stopped(f"{content.name}, {style.name}, {label}: {error}", None, True) from None
                self.failures.append(f"{content.name}, {style.name}, {label}: {error}")
                log.error("%s", self.failures[-1])
            if label == [*self.methods][-1]:
                self._references(content, style)

    def _one(self, content: Picture, style: Picture, label: str, given: dict[str, Tensor]) -> None:
        name = self._name(content.name, style.name, label)
        method, watching, due, new_style = self.methods[label], 0.0, 1, label not in given
        image = given.setdefault(label, style.image)

        def watch(step: int, picture: Tensor) -> None:
            nonlocal watching, due
            assert self.scorer is not None  # a curve needs measures, see `_check`
            if step >= due:  # some optimizers take several steps at once
                due = (step // self.curve_every_n_steps + 1) * self.curve_every_n_steps
                begun = time.perf_counter()
                scores = self.scorer(picture[0].cpu(), content.image, [(style.image, 1.0)])
                self.curve.append({**labels, "step": step, **scores})
                watching += time.perf_counter() - begun

        labels = {"content": content.name, "style": style.name, "method": label}
        controls = Controls(name, f"{name}/", self.request.seed, watch=watch if self.curve_every_n_steps else None)
        picture, seconds = self._redraw(method, content, Style(image, name=style.name), controls)
        seconds -= watching
        if label not in self.warm and seconds < COLD_BELOW_SECONDS:
            given[label] = image.clone()  # a new tensor, so that the method computes the style's statistics again
            quiet = replace(controls, recorded=False, watch=None)
            seconds = self._redraw(method, content, Style(given[label], name=style.name), quiet)[1]
        self.warm.add(label)
        self._record(name, picture, content, style, {**labels, "new_style": new_style}, seconds)

    def _record(
        self, name: str, picture: Tensor, content: Picture, style: Picture, labels: dict[str, Any], seconds: float
    ) -> None:
        """Write a finished picture and its scores."""
        label = labels["method"]
        self.files[label, style.name, content.name] = self.folder.save_picture(picture[0], f"{name}.png")
        numbers = {"stylize_seconds": round(seconds, 4)}
        if self.scorer is not None:
            numbers |= self.scorer(picture[0], content.image, [(style.image, 1.0)])
        if label in self.sets:
            self.sets[label].add(picture[0], numbers)
        self.folder.record_metrics(name, numbers)
        self.rows.append({**labels, **numbers})
        self._write()

    def _name(self, content: str, style: str, label: str) -> str:
        """The name of a picture; a number is appended if underscores in its parts lead to a name that is taken."""
        triple = (label, style, content)
        taken = {path.stem for key, path in self.files.items() if key != triple}
        name = f"{content}_{style}_{label}"
        candidates = (name if n == 1 else f"{name}_{n}" for n in count(1))
        return next(candidate for candidate in candidates if candidate not in taken)

    def _redraw(self, method: Stylizer, content: Picture, style: Style, controls: Controls) -> tuple[Tensor, float]:
        """The result (1, 3, H, W) and the time in seconds."""
        # Entries that another method or picture left in the cache would make this one look faster.
        encoder = getattr(method, "encoder", None)
        if encoder is not None:
            encoder.memory.clear()
        _synchronize()
        begun = time.perf_counter()
        picture = redraw(
            method, content.image[None], [style], controls, self.request.color, self.request.color_strength
        )
        _synchronize()
        return picture.clamp(0, 1), time.perf_counter() - begun

    def _references(self, content: Picture, style: Picture) -> None:
        """Add rows for the unchanged photo and painting. They show whether a measure rewards doing nothing, or copying
        the painting."""
        if self.scorer is None:
            return
        references = self.scorer.references(content.image, [(style.image, 1.0)])
        if "photo" in self.sets:
            self.sets["photo"].add(content.image, references["photo"])
        for label, numbers in references.items():
            self.rows.append({"content": content.name, "style": style.name, "method": label, **numbers})
        for label in self.methods:
            if path := self.files.get((label, style.name, content.name)):
                self.folder.record_references(path.stem, references, self.scorer.described())
        self._write()

    def _write(self) -> None:
        self.folder.write_rows("scores.csv", self.rows)
        if self.curve:
            self.folder.write_rows("curve.csv", self.curve)

    def finish(self, contents: Sequence[Picture]) -> None:
        """Record and log the means, and draw the sheet with all pictures."""
        means = mean_scores(self.rows)
        for label, scores in self.sets.items():
            means.setdefault(label, {}).update(scores.compute())
            self.folder.summary.measured_with |= scores.described()
        for name, least in min((scores.too_few() for scores in self.sets.values()), key=len, default={}).items():
            log.warning("metrics: %s needs %d or more results and paintings, and is left out", name, least)
        for label in self.methods:
            if label in means:
                self.folder.record_metrics(f"{MEAN_OF}{label}", means[label])
        self.folder.summary.outputs = [str(self.folder.path / "scores.csv")] if self.rows else []
        for line in table_lines(means):
            log.info("%s", line)
        if "painting" in means:
            log.info("%s", WHY_THE_PAINTING_IS_NOT_0)
        if self.files:
            self._draw(contents)

    def _draw(self, contents: Sequence[Picture]) -> None:
        most = max(len(contents) + 1, len(self.styles) * len(self.methods) + 1)
        px = max(LEAST_CELL_PX, min(CELL_PX, LARGEST_SIDE_PX // most))
        photos = {photo.name: miniature(photo.image, px) for photo in contents}
        made = {key: image for key, file in self.files.items() if (image := thumbnail(file, px)) is not None}
        self.folder.save_sheet(evaluation_sheet(photos, self.styles, list(self.methods), made), "grid.png")


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Averages per method and reference, from the rows of scores.csv.

    Returns:
        Label -> `pairs` (number of pairs), the mean of each measure, and the median times `seconds_per_picture` (styles
        that the method has processed before) and `seconds_with_new_style`. Methods come first, then references.
    """
    result: dict[str, dict[str, float]] = {}
    for label in dict.fromkeys(row["method"] for row in rows):
        of_label = [row for row in rows if row["method"] == label]
        means: dict[str, float] = {"pairs": len(of_label)}
        for key in dict.fromkeys(key for row in of_label for key in row):
            values = [row[key] for row in of_label if isinstance(row.get(key), float)]
            if values and key != "stylize_seconds":
                means[key] = statistics.fmean(values)
        for key, new in (("seconds_per_picture", False), ("seconds_with_new_style", True)):
            times = [row["stylize_seconds"] for row in of_label if row.get("new_style") is new]
            if times:
                means[key] = statistics.median(times)
        result[label] = means
    return {label: result[label] for label in sorted(result, key=lambda label: label in REFERENCES)}


def table_lines(means: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Means as a table of aligned text lines: one row per measure, one column per method."""
    measures = list(dict.fromkeys(key for numbers in means.values() for key in numbers))
    first = max(map(len, measures), default=0)
    yield " ".join([" " * first, *(f"{label:>12}" for label in means)])
    for key in measures:
        cells = (f"{numbers[key]:12.4g}" if key in numbers else f"{'-':>12}" for numbers in means.values())
        yield " ".join([key.ljust(first), *cells])


def _sized(image: Tensor, longer_side_px: int | None, crop: Crop, side_px: int | None) -> Tensor:
    """A picture (3, H, W) resized to the longer side, or cropped to a square with `side_px`."""
    if crop == "none":
        return resize(image, size_for_longer_side(size_of(image), longer_side_px), remedy="set image_px smaller")
    assert side_px is not None  # see `_check`
    image = resize(image, size_for_shorter_side(size_of(image), side_px), remedy="set image_px smaller")
    top, left = ((length - side_px) // 2 for length in image.shape[-2:])
    return image[:, top : top + side_px, left : left + side_px].contiguous()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
