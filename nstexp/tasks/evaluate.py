"""`task=evaluate`: methods, and pictures of other programs, on all pairs of photo and painting, scored alike."""

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from nstexp.core.errors import Stopped, UserError, choice, whole
from nstexp.core.measures import Scorer
from nstexp.core.resize import resize, size_for_longer_side, size_for_shorter_side
from nstexp.media.images import load_image
from nstexp.media.learned import LearnedStyle
from nstexp.media.paths import find_images, unique_names
from nstexp.methods.base import Controls, Style, Stylizer, learned_styles, size_of
from nstexp.outputs import RunFolder
from nstexp.tasks.color import check_learned
from nstexp.tasks.finish import Finish, redraw
from nstexp.tasks.given import Given, Key, fitted
from nstexp.tasks.pairs import chosen_pairs
from nstexp.tasks.request import Request
from nstexp.tasks.results import Picture, Results
from nstexp.tasks.scores import REFERENCES
from nstexp.tasks.styles import check_accepted, check_photo, find_styles
from nstexp.tasks.unfinished import UnfinishedRun

log = logging.getLogger(__name__)

Crop = Literal["none", "square"]
COLD_BELOW_SECONDS = 5.0  # for slower pictures, the extra cost of the first call is small in comparison


def evaluate(
    methods: Mapping[str, Stylizer],
    folder: RunFolder,
    request: Request,
    scorer: Scorer | None,
    crop: Crop = "none",
    curve_every_n_steps: int = 0,
    pairs: int | None = None,
    given: Given | None = None,
    identity: str = "",
    checkpoint_minutes: float | None = 5.0,
) -> Path:
    """Stylize every content in every style with every method; returns the path of scores.csv.

    The run folder gets one PNG per pair and method, scores.csv (a row per pair and method, and rows `photo` and
    `painting` with the scores of the unchanged inputs), means.csv (the means, with 95 % intervals), grid.png with all
    pictures, and on request curve.csv. Pictures that other programs made get rows like those of a method.

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
        pairs: how many pairs to take, see `chosen_pairs`; None: every photo in the style of every painting.
        given: finished pictures of other programs, which are resized to the sizes of their photos.
        identity: digest of everything in the configuration of the methods that can change the results.
        checkpoint_minutes: minutes between two savings of what is finished, and of the state of an unfinished picture,
            from which the same command goes on; None: never. The unit is a pair with all its methods.

    Raises:
        UserError: invalid input; or some pictures failed (raised after all others are done).
        Stopped: interrupted.
    """
    learned = [learned_styles(method) for method in methods.values()]
    check_learned(request.color, any(names is not None for names in learned))
    check_photo(request)
    for label, method in methods.items():
        check_accepted(Request(None, seamless=request.seamless), method, label)
    finish = Finish.of(request)
    given = given or Given()
    labels = (*methods, *given.folders)
    folder.summary.method = ",".join(labels)
    _check(labels, given.folders, crop, request.image_px, curve_every_n_steps, measured=scorer is not None)

    paths = find_images("" if request.content is None else request.content, "content")
    paintings = _paintings(request, learned)
    read = _Reader(request, crop)
    contents = [
        Picture(name, read(path, request.image_px, request.background))
        for name, path in zip(unique_names(paths), paths, strict=True)
    ]
    chosen = chosen_pairs([photo.name for photo in contents], [name for name, _ in paintings], pairs)
    files, seconds = given.find(chosen), given.seconds(chosen)
    names = [f"{content}_{style}_{label}.png" for (content, style), label in product(chosen, methods)]
    folder.inputs.add([*paths, *(path for _, path in paintings), *finish.files, *files.values()])
    folder.check("scores.csv", "means.csv", "grid.png", *(["curve.csv"] if curve_every_n_steps else []), *names)
    inputs = _inputs(chosen, dict(zip((photo.name for photo in contents), paths, strict=True)), dict(paintings), files)
    unfinished = None
    if checkpoint_minutes is not None:
        made_of = f"{identity} {crop} {curve_every_n_steps} {_measured_by(scorer)}"
        unfinished = UnfinishedRun(folder, " ".join([made_of, *folder.summary.versions.values()]), checkpoint_minutes)
    results = Results(folder, scorer, labels, files)
    work = _Evaluation(methods, results, request, finish, curve_every_n_steps, seconds, unfinished, inputs)
    try:
        for name, path in paintings:
            of_it = [photo for photo in contents if (photo.name, name) in chosen]
            if of_it:  # paintings are loaded one at a time, since they can be large
                work.one_style(of_it, Picture(name, read(path, None)))
    except KeyboardInterrupt:
        message = f"interrupted at picture {work.begun} of {work.total}; the finished pictures are in {folder.path}"
        raise Stopped(f"{message}{work.interrupt()}", interrupted=True) from None
    finally:
        results.finish(contents)
    if work.failures:  # what is kept stays, so that only these are made again
        how = "" if unfinished is None else unfinished.how_to_continue()
        raise UserError(f"{len(work.failures)} of {work.total} pictures failed, the first: {work.failures[0]}{how}")
    if unfinished is not None:
        unfinished.end()
    return folder.path / "scores.csv"


class _Reader:
    """Reads photos and paintings at the size of the evaluation."""

    def __init__(self, request: Request, crop: Crop) -> None:
        self.request, self.crop = request, crop

    def __call__(self, path: Path, longer_side_px: int | None, background: str = "white") -> Tensor:
        """RGB (3, H, W), resized to the longer side, or with `crop=square` to a square with the side `image_px`."""
        image = load_image(path, self.request.max_input_megapixels, background)
        remedy = "set image_px smaller"
        if self.crop == "none":
            return resize(image, size_for_longer_side(size_of(image), longer_side_px), remedy=remedy)
        side = self.request.image_px
        assert side is not None  # see `_check`
        image = resize(image, size_for_shorter_side(size_of(image), side), remedy=remedy)
        top, left = ((length - side) // 2 for length in image.shape[-2:])
        return image[:, top : top + side, left : left + side].contiguous()


def _paintings(request: Request, learned: Sequence[Mapping[str, LearnedStyle] | None]) -> list[tuple[str, Path]]:
    """The names and files of the paintings.

    Args:
        request: names them.
        learned: for each method, the styles that it has learned; None: it takes any painting.

    Raises:
        UserError: a learned style whose picture is not on this machine.
    """
    # Methods without learned styles get the pictures from which the other methods have learned.
    known = [names for names in learned if names is not None]
    merged = {name: style for names in known for name, style in names.items()}
    found: list[tuple[str, Path]] = []
    for name, path in find_styles(request.style, merged or None, others=len(known) < len(learned)):
        if path is None:
            raise UserError(f"style={name}: its picture, which the measures compare with, is not on this machine")
        found.append((name, path))
    return found


def _check(
    labels: Sequence[str],
    given: Iterable[str],
    crop: str,
    image_px: int | None,
    curve_every_n_steps: int,
    measured: bool,
) -> None:
    whole("task.curve_every_n_steps", curve_every_n_steps)
    choice("task.crop", crop, get_args(Crop))
    if crop == "square" and image_px is None:
        raise UserError("task.crop=square needs a side: set image_px, such as image_px=512")
    if curve_every_n_steps and not measured:
        raise UserError("task.curve_every_n_steps needs measures: set measure=true and choose some by metrics=[...]")
    if not labels:
        raise UserError("there is nothing to evaluate: choose methods, such as method=[adain,swift], or give results")
    for label in labels:
        key = "results" if label in given else "task.methods"
        if label in REFERENCES or not re.fullmatch(r"[\w.+=-]+", label):
            raise UserError(
                f"{key}: '{label}' cannot be the name of a method: use letters, digits and . _ + = - only, and "
                f"neither {' nor '.join(REFERENCES)}"
            )
        if labels.count(label) > 1:
            raise UserError(f"results: '{label}' is also the name of a method, write results={{another: folder}}")


def _measured_by(scorer: Scorer | None) -> str:
    """A text that changes with the measures."""
    return "" if scorer is None else f"{sorted(scorer.described().items())} {sorted(scorer.set_names)}"


def _inputs(
    pairs: Iterable[tuple[str, str]],
    photos: Mapping[str, Path],
    paintings: Mapping[str, Path],
    given: Mapping[Key, Path],
) -> dict[tuple[str, str], list[Path]]:
    """Pair of photo and painting -> the files on which its pictures and scores depend."""
    found = {(content, style): [photos[content], paintings[style]] for content, style in pairs}
    for (_, style, content), file in given.items():
        found[content, style].append(file)
    return found


class _Evaluation:
    """Makes and reads the pictures of one evaluation."""

    def __init__(
        self,
        methods: Mapping[str, Stylizer],
        results: Results,
        request: Request,
        finish: Finish,
        curve_every_n_steps: int,
        seconds: Mapping[Key, float],
        unfinished: UnfinishedRun | None,
        inputs: Mapping[tuple[str, str], Sequence[Path]],
    ) -> None:
        self.methods, self.results, self.request, self.of_results = methods, results, request, finish
        self.curve_every_n_steps, self.seconds = curve_every_n_steps, seconds
        self.unfinished, self.inputs = unfinished, inputs
        self.failures: list[str] = []
        self.total, self.begun = len(inputs) * len(results.labels), 0
        self.warm: set[str] = set()  # methods that have made a picture
        self.more: dict[str, dict[str, Any]] = {}  # picture of the pair -> what a later run needs to add it again
        self.done = self._done_before()

    def _done_before(self) -> set[str]:
        """The pictures that an earlier run finished, of pairs of which all files are still there."""
        files: dict[str, Path] = {}
        inputs: dict[str, Sequence[Path]] = {}
        for (content, style), of_pair in self.inputs.items():
            made = {self.results.name(key): self.results.file(key) for key in self._keys(content, style)}
            if all(file.exists() for file in made.values()):
                files |= made
                inputs |= dict.fromkeys(made, of_pair)
        return set() if self.unfinished is None else self.unfinished.restore(files, inputs)

    def _keys(self, content: str, style: str) -> list[Key]:
        return [(label, style, content) for label in self.results.labels]

    def one_style(self, contents: Sequence[Picture], style: Picture) -> None:
        """Stylize every content in one style with every method, and score the given pictures."""
        self.results.add_style(style)
        # Each method gets the same tensor for every content, so that it recognizes a style it has processed.
        known: dict[str, Tensor] = {}
        for content in contents:
            keys, failed = self._keys(content.name, style.name), len(self.failures)
            names = [self.results.name(key) for key in keys]
            before = self.done.issuperset(names)
            self.more.clear()
            for key, name in zip(keys, names, strict=True):
                self.begun += 1
                place = f"{self.begun} of {self.total}: {content.name}, {style.name}, {key[0]}"
                log.info("picture %s%s", place, ", done before" if before else "")
                if before and self.unfinished is not None:
                    self.results.add_known(key, self.unfinished.more_of(name))
                else:
                    self._attempt(content, style, key[0], known)
            references = self.results.folder.summary.references.get(names[0]) if before else None
            self.results.add_references(content, style, references)
            if self.unfinished is not None and not before and len(self.failures) == failed:
                self.unfinished.finish(dict.fromkeys(names, self.inputs[content.name, style.name]), self.more)

    def _attempt(self, content: Picture, style: Picture, label: str, known: dict[str, Tensor]) -> None:
        """Make or read a picture, and score it; a failure is recorded, and the others go on."""
        try:
            if label in self.methods:
                self._one(content, style, label, known)
            else:
                self._given(content, style, label)
        except (UserError, Stopped) as error:
            if isinstance(error, Stopped) and error.interrupted:
                message = f"{content.name}, {style.name}, {label}: {error}{self.interrupt()}"
                raise Stopped(message, None, True) from None
            self.failures.append(f"{content.name}, {style.name}, {label}: {error}")
            log.error("%s", self.failures[-1])

    def interrupt(self) -> str:
        """The run is interrupted: keep what is finished; returns the end of the message."""
        if self.unfinished is None:
            return ""
        self.unfinished.interrupt()
        return self.unfinished.how_to_continue()

    def _given(self, content: Picture, style: Picture, label: str) -> None:
        """Score a picture that another program made."""
        key = (label, style.name, content.name)
        picture = load_image(self.results.file(key), self.request.max_input_megapixels)
        resized = size_of(picture) != size_of(content.image)
        picture, alike = fitted(picture, size_of(content.image))
        seconds, size = self.seconds.get(key), (resized, not alike)
        self.more[self.results.name(key)] = self.results.add(label, picture, content, style, seconds, size=size)

    def _one(self, content: Picture, style: Picture, label: str, known: dict[str, Tensor]) -> None:
        name, results = self.results.name((label, style.name, content.name)), self.results
        method, watching, due, new_style = self.methods[label], 0.0, 1, label not in known
        image = known.setdefault(label, style.image)

        def watch(step: int, picture: Tensor) -> None:
            nonlocal watching, due
            assert results.scorer is not None  # a curve needs measures, see `_check`
            if step >= due:  # some optimizers take several steps at once
                due = (step // self.curve_every_n_steps + 1) * self.curve_every_n_steps
                begun = time.perf_counter()
                scores = results.scorer(picture[0].cpu(), content.image, [(style.image, 1.0)])
                results.curve.append({**labels, "step": step, **scores})
                watching += time.perf_counter() - begun

        labels = {"content": content.name, "style": style.name, "method": label}
        controls = Controls(
            name,
            f"{name}/",
            self.request.seed,
            seamless=self.request.seamless,
            watch=watch if self.curve_every_n_steps else None,
        )
        going_on = controls
        if self.unfinished is not None:
            self.unfinished.begin(name, self.inputs[content.name, style.name])
            if getattr(method, "optimizes", False) and not self.curve_every_n_steps:  # a curve needs all steps
                going_on = replace(controls, unfinished=self.unfinished)
        picture, seconds = self._redraw(method, content, Style(image, name=style.name), going_on)
        seconds -= watching
        if going_on.unfinished is not None:
            seconds += going_on.unfinished.seconds_before
        if label not in self.warm and seconds < COLD_BELOW_SECONDS:
            known[label] = image.clone()  # a new tensor, so that the method computes the style's statistics again
            quiet = replace(controls, recorded=False, watch=None)
            seconds = self._redraw(method, content, Style(known[label], name=style.name), quiet)[1]
        self.warm.add(label)
        results.folder.save_picture(picture[0], f"{name}.png")
        self.more[name] = results.add(label, picture[0], content, style, seconds, new_style)

    def _redraw(self, method: Stylizer, content: Picture, style: Style, controls: Controls) -> tuple[Tensor, float]:
        """The result (1, 3, H, W) and the time in seconds."""
        # Entries that another method or picture left in the cache would make this one look faster.
        encoder = getattr(method, "encoder", None)
        if encoder is not None:
            encoder.memory.clear()
        _synchronize()
        begun = time.perf_counter()
        picture = redraw(method, content.image[None], [style], controls, self.of_results)
        _synchronize()
        return picture.clamp(0, 1), time.perf_counter() - begun


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
