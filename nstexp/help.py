"""Help in the terminal: `nstexp --help`, `nstexp help`, and `nstexp help TOPIC`, KEY or GROUP=OPTION.

The texts come from the comments in `conf`, which `nstexp.config.reference` reads; that import waits until it is needed.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a command that asks for no help does not wait for it
    from nstexp.config.reference import Key, Option, Reference

WIDTH, LINES = 100, 40  # of a screen: every topic fits
COMMAND = "python -m nstexp help"
MOST_NAMED = 4  # topics or keys that an unknown word may have meant
MOST_COMMANDS = 5  # of the options of a topic; of more options the first two commands are shown
NAME_COLUMN = 18  # width of the names in a list of options


@dataclass(frozen=True)
class Topic:
    """A screen of help, and a section of the reference.

    name: the word after `help`.
    title: what the topic is about, as sentences.
    groups: config groups whose options it lists.
    keys: keys that it explains; one that ends with a period: all keys in that table.
    commands: examples; without any, those of the options.
    names_only: whether the options are listed without their summaries, because they are many.
    """

    name: str
    title: str
    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    names_only: bool = False


TOPICS = (
    Topic(
        "pictures",
        "The photos and paintings, and how several styles combine.",
        keys=(
            "content", "style", "style_weights", "style_combine", "style_layers", "fine_style", "masks", "style_masks",
            "max_input_megapixels", "texture_px",
        ),
    ),
    Topic(
        "finish",
        "What happens to the result of every method: its colors, how much it looks like a photo, places that keep more "
        "of the photo, and results that tile.",
        keys=("color", "color_strength", "photorealism", "photo.", "protect", "protect_strength", "seamless"),
    ),
    Topic(
        "outputs",
        "The result and the record of a run. A run folder holds the pictures, images/ (unfinished pictures), "
        "losses.csv, metrics.json, summary.json, config.yaml and nstexp.log.",
        keys=(
            "output", "transparency", "image_px", "timelapse", "lapse.", "run_dir", "task.checkpoint_minutes",
            "hydra.sweep.dir", "hydra.sweep.subdir", "log_every_n_steps", "picture_every_n_steps", "seed",
            "precision", "threads",
        ),
    ),
    Topic("methods", "How a picture is made.", groups=("method",)),
    Topic(
        "losses",
        "The terms of the loss, for method=gatys and for training. Several are chosen as a list. weights.NAME, "
        "weights.alpha or weights.beta multiplies a term.",
        groups=("loss",),
        commands=("python -m nstexp 'loss=[content,gram,laplacian,range]' weights.laplacian=50",),
    ),
    Topic(
        "weights",
        "Factors on the loss terms. The total loss is the sum of all terms times their weights. weights.alpha "
        "multiplies content terms and weights.beta style terms; a key with the name of a term takes precedence.",
        groups=("weights",),
        keys=("weights.alpha", "weights.beta", "weights."),
    ),
    Topic(
        "layers",
        "Layers of the network that the losses read: relu1_1 to relu5_4 and pool1 to pool5 of a VGG; conv4_2 means "
        "relu4_2. Any list of layers can be set, such as layers.content=[relu5_2].",
        groups=("layers",),
        keys=("layers.",),
        commands=("python -m nstexp layers=style_first3 layers.content=[relu5_2]",),
    ),
    Topic(
        "backbones",
        "The network whose features the losses compare.",
        groups=("backbone",),
        commands=("python -m nstexp backbone=vgg19_normalized",),
    ),
    Topic(
        "generators",
        "The network that method=texture_net and method=cin train.",
        groups=("generator",),
        commands=(
            "python -m nstexp method=texture_net generator=pyramid task=train style=painting.jpg data.content=photos",
        ),
    ),
    Topic(
        "optimizers",
        "Optimizers and learning-rate schedules: of method=gatys (lbfgs, torch_lbfgs, adam, sgd) and of training "
        "(adam, muon).",
        groups=("optimization",),
        keys=("method.optimizers.", "method.schedules.", "method.optimizer", "method.schedule", "method.compile"),
    ),
    Topic(
        "data",
        "Pictures for training.",
        groups=("data",),
        keys=(
            "data.content", "data.style", "data.batch_size", "data.crop_px", "data.resize_px", "data.resize",
            "data.flip", "data.workers", "data.val_content", "data.val_style", "data.val_pairs", "data.val_px",
            "data.max_megapixels", "data.retries", "data.cache_dir", "data.cache_gb",
        ),
        commands=("python -m nstexp task=train method=adain data.content=coco/train2017 data.style=wikiart",),
    ),
    Topic(
        "training",
        "Training a network from folders of photos and paintings. The same command with the same run_dir resumes an "
        "interrupted training.",
        keys=(
            "task.checkpoint_every_n_steps", "task.validate_every_n_steps", "resume_from", "add_style", "style_names",
            "data.content", "data.style", "data.batch_size", "data.crop_px", "run_dir",
        ),
        commands=(
            "python -m nstexp task=train method=adain data.content=photos/ data.style=paintings/ run_dir=runs/mine",
            "python -m nstexp task=train method=texture_net style=painting.jpg data.content=photos/",
            "python -m nstexp task=train method=cin style=paintings/ data.content=photos/",
            "python -m nstexp task=train method=cin resume_from=model.safetensors add_style=new.jpg",
        ),
    ),
    Topic(
        "tasks",
        "What a command does.",
        groups=("task",),
        keys=(
            "task.methods", "task.crop", "task.pairs", "task.curve_every_n_steps", "results", "results_name",
            "results_seconds", "task.tolerance", "task.checkpoint_every_n_steps",
            "task.validate_every_n_steps",
        ),
    ),
    Topic(
        "video",
        "Redrawing a clip.",
        keys=("video.", "method.next_steps", "weights.temporal"),
        commands=(
            "python -m nstexp task=video method=swift content=clip.mp4 style=painting.jpg output=out.mp4",
            "python -m nstexp task=video method=swift content=clip.mp4 'style=[a.jpg,b.jpg]' video.fade=[0,1]",
        ),
    ),
    Topic(
        "measures",
        "Numbers that compare a finished picture with the photo and the painting. Several are chosen as a list.",
        groups=("metrics",),
        keys=("measure", "metrics.longer_side_px", "metrics.names"),
    ),
    Topic(
        "sweeps",
        "Several runs by one command: -m and values with commas between them. At the end report.html, table.csv and "
        "grid.png are in the folder of the sweep.",
        groups=("hydra/launcher",),
        keys=("hydra.sweep.dir", "hydra.launcher.n_jobs", "objective", "measure", "report.", "prune."),
        commands=(
            "python -m nstexp -m weights.beta=100,1000,10000",
            "python -m nstexp -m hydra/launcher=joblib hydra.launcher.n_jobs=2 weights.beta=1,10,100",
            "python -m nstexp -m hydra/sweeper=optuna objective=style_gram 'weights.beta=interval(10,1000)'",
            "python -m nstexp.report multirun/nstexp/DATE",
        ),
    ),
    Topic("loggers", "Where losses and pictures go beside the run folder.", groups=("logger",)),
    Topic("trainer", "Devices and processes.", groups=("trainer",), keys=("trainer.",)),
    Topic(
        "experiments",
        f"Published figures and presets: files that set several keys at once. `{COMMAND} experiment=NAME` explains an "
        "experiment.",
        groups=("experiment",),
        commands=(
            "python -m nstexp experiment=gatys2016 content=photo.jpg style=painting.jpg",
            "python -m nstexp experiment=two_styles",
        ),
        names_only=True,
    ),
)  # fmt: skip
# Other words for topics; names of groups are found without a list.
ALIASES = {
    "cluster": "sweeps",
    "color": "finish",
    "colors": "finish",
    "content": "pictures",
    "clips": "video",
    "encoder": "backbones",
    "encoders": "backbones",
    "figures": "experiments",
    "input": "pictures",
    "measure": "measures",
    "metric": "measures",
    "networks": "backbones",
    "output": "outputs",
    "presets": "experiments",
    "runs": "outputs",
    "search": "sweeps",
    "style": "pictures",
    "sweep": "sweeps",
    "train": "training",
    "wandb": "loggers",
}


def answered(words: Sequence[str]) -> bool:
    """Print help if a command line asks for it; a word that is no topic ends the process with exit code 2.

    Args:
        words: of the command line, without the program's name.

    Returns:
        Whether they ask for help.
    """
    if words[:1] == ["help"]:
        from nstexp.commands import errors_on_one_line

        with errors_on_one_line():
            print("\n\n".join([screen(word) for word in words[1:]] or [topics()]))
        return True
    if not {"-h", "--help"} & set(words) or re.fullmatch("[a-z]+", words[0]):  # a command of its own answers for itself
        return False
    print(overview())
    return True


def overview() -> str:
    """The text of `--help`, as Hydra would print it, without the time that Hydra takes to start."""
    import yaml

    from nstexp.config.keys import CONF, LOADER

    text = (CONF / "hydra" / "help" / "nstexp.yaml").read_text(encoding="utf-8")
    parts = yaml.load(text, LOADER)
    for name in ("header", "footer"):
        parts["template"] = parts["template"].replace(f"${{hydra.help.{name}}}", parts[name])
    return str(parts["template"]).rstrip()


def topics() -> str:
    """The topics, a line each."""
    lines = [f"Topics: {COMMAND} TOPIC"]
    for topic in TOPICS:
        lines += _entry(topic.name, topic.title.partition(". ")[0].rstrip("."), 12)
    lines += ["", f"A key, with its defaults: {COMMAND} method.max_steps", f"An option: {COMMAND} loss=gram"]
    return "\n".join(lines)


def screen(word: str) -> str:
    """Help on a topic, a key, or an option.

    Args:
        word: such as `losses`, `method.max_steps`, `beta` (any key that ends so), `method=gatys` or `gatys`.

    Raises:
        UserError: there is no such topic, key or option.
    """
    from nstexp.config.reference import reference

    known = reference()
    if (topic := _topic(word)) is not None and (word not in known.root_keys or word in (topic.name, *topic.groups)):
        return "\n".join(_of_topic(topic, known))
    group, equals, name = word.partition("=")
    if equals and group in known.groups:
        if (group, name) not in known.options:
            raise _unknown(word, [f"{group}={each.name}" for each in known.in_group(group)])
        return "\n".join(_of_option(known.options[group, name], known))
    path = group.lstrip("+~")
    if found := known.having(path):
        return "\n".join(_of_keys(found))
    if options := [option for option in known.options.values() if option.name == word]:
        return "\n\n".join("\n".join(_of_option(option, known)) for option in options)
    if found := known.having(path, by_end=True):
        return "\n".join(_of_keys(found))
    paths = [key.path for option in known.options.values() for key in option.keys if option.group != "experiment"]
    names = [option.name for option in known.options.values()]
    raise _unknown(word, [*(topic.name for topic in TOPICS), *known.groups, *names, *paths])


def _topic(word: str) -> Topic | None:
    word = ALIASES.get(word, word)
    return next((topic for topic in TOPICS if word in (topic.name, topic.name.rstrip("s"), *topic.groups)), None)


def _unknown(word: str, names: Iterable[str]) -> Exception:
    from nstexp.core.errors import UserError

    near = get_close_matches(word, list(dict.fromkeys(names)), MOST_NAMED, 0.6)
    listed = f"did you mean {' or '.join(near)}?" if near else f"the topics are {', '.join(t.name for t in TOPICS)}"
    return UserError(f"help {word}: there is no such topic, key or option; {listed}")


# ------------------------------------------------------------------------------------------------------------ screens


def _of_topic(topic: Topic, known: "Reference") -> Iterator[str]:
    yield from textwrap.wrap(f"{topic.name}: {topic.title}", WIDTH)
    for group in topic.groups:
        options = known.in_group(group)
        yield ""
        yield f"Options: {group}={'[NAME,...]' if options[0].is_listed else 'NAME'}"
        if topic.names_only:
            names = ", ".join(option.name for option in options)
            yield from textwrap.wrap(names, WIDTH, initial_indent="  ", subsequent_indent="  ")
            continue
        for option in options:
            yield from _entry(option.name, option.summary, NAME_COLUMN)
    if keys := list(dict.fromkeys(keys_of(topic, known))):
        yield ""
        yield "Keys, with their defaults:"
        yield from _key_lines(keys)
    commands = topic.commands or [each for group in topic.groups for each in _commands(known.in_group(group))]
    if commands:
        yield ""
        yield "Commands:"
        for command in commands:
            yield from _command(command)
    if topic.groups:
        yield ""
        options = known.in_group(topic.groups[0])
        yield f"All keys of an option: {COMMAND} {topic.groups[0]}={options[0].name}"


def _command(command: str) -> Iterator[str]:
    """A command, broken as a shell reads it."""
    lines = textwrap.wrap(
        f"  {command}", WIDTH - 2, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False
    )
    yield from (f"{line} \\" for line in lines[:-1])
    yield lines[-1]


def _commands(options: Sequence["Option"]) -> list[str]:
    """The first command of every option that has one; if these are many, two of them."""
    found = [option.commands[0] for option in options if option.commands]
    return found if len(found) <= MOST_COMMANDS else found[:2]


def keys_of(topic: Topic, known: "Reference") -> Iterator["Key"]:
    """The keys that a topic explains: for each path the first option's, apart from tables."""
    seen = set()
    every = [key for option in known.in_order() for key in known.keys(option) if not key.is_table]
    for wanted in topic.keys:
        for key in every:
            chosen = key.path.startswith(wanted) if wanted.endswith(".") else key.path == wanted
            own = key.path.rpartition(".")[2]
            if chosen and key.path not in seen and not own.startswith("_"):
                seen.add(key.path)
                yield key


def _of_option(option: "Option", known: "Reference") -> Iterator[str]:
    yield from textwrap.wrap(f"{option.choice}: {option.about}", WIDTH)
    if option.commands:
        yield ""
        for command in option.commands:
            yield from _command(command)
    keys = [key for key in known.keys(option) if not key.is_table and not key.path.rpartition(".")[2].startswith("_")]
    if keys:
        yield ""
        yield from _key_lines(keys)


def _of_keys(found: Sequence[tuple["Option", "Key"]]) -> Iterator[str]:
    """The lines of one key, or of several that end in the same words: meaning, then the defaults."""
    by_path: dict[str, dict[str, list[str]]] = {}
    for option, key in found:
        if key.is_table and key.text == "settings of this group":
            continue
        default = f"{key.value} with {option.choice}" if option.group else key.value
        by_path.setdefault(key.path, {}).setdefault(key.text, []).append("" if key.is_table else default)
    for path, meanings in by_path.items():
        yield path
        for text, defaults in meanings.items():
            yield from _wrapped(text)
            if listed := "; ".join(filter(None, defaults)):
                yield from _wrapped(f"default: {listed}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _key_lines(keys: Iterable["Key"]) -> Iterator[str]:
    for key in keys:
        value = key.value if len(key.value) <= 40 else f"{key.value[:37]}..."
        start = f"  {key.path}={value}"
        yield from textwrap.wrap(
            f"{start}  {key.text}", WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False
        )


def _entry(name: str, text: str, column: int) -> list[str]:
    start = f"  {name:{column}}" if len(name) < column else f"  {name}  "
    return textwrap.wrap(start + text, WIDTH, subsequent_indent=" " * (column + 2), break_on_hyphens=False)
