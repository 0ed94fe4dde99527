"""What a constructor checks whatever its arguments are is read from its source; what depends on something is not."""

import subprocess
import sys

import pytest

from nstexp.config import checks
from nstexp.core.errors import ArgumentError, UserError

SOURCE = """
from typing import Literal, get_args
from nstexp.core.errors import ArgumentError, choice, flag, flags, number, whole, wholes

Form = Literal["round", "square"]
LARGEST = 2**4 - 1
SIZES = {3: "small", 5: "large"}
def limit(): return 7

class Base:
    def __init__(self, seed: int = 0, **rest):
        whole("seed", seed)

class Thing(Base):
    def __init__(self, form: Form, size, share=None, count=1, name=None, changed=1, odd=1, late=1, **others):
        super().__init__(**others)
        self.form, self.size = choice("form", form, get_args(Form)), choice("size", size, sorted(SIZES))
        if share is not None:
            number("share", share, 0, 1)
        self.name = None if name is None else choice("name", name, ["a", "b"])
        inner(count)
        changed = changed or 1
        whole("changed", changed)
        if size == 3:
            whole("odd", odd)
        whole("odd", odd, limit())
        any(flag("odd", odd) for _ in ())
        if count == 1:
            return
        flag("late", late)

def inner(number_of):
    wholes(1, LARGEST, number_of=number_of)
"""


@pytest.fixture
def thing(tmp_path, monkeypatch):
    (tmp_path / "sample_of_checks.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(checks, "OWN", "sample_of_checks")
    return "sample_of_checks.Thing"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"form": "x"}, "at.form=x is unknown, choose one of round, square"),
        ({"size": 4}, "at.size=4 is unknown, choose one of 3, 5"),
        ({"share": 2}, "at.share=2: give a number from 0 to 1"),
        ({"name": "c"}, "at.name=c is unknown, choose one of a, b"),
        ({"count": 16}, "at.number_of=16: give a whole number from 1 to 15"),
        ({"seed": -1}, "at.seed=-1: give a whole number, 0 or larger"),
    ],
)
def test_a_wrong_value_is_refused_as_the_constructor_would(thing, settings, sentence):
    with pytest.raises(ArgumentError) as refused:
        checks.refuse(thing, settings, "at")
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "settings",
    [
        {"form": "round", "size": 3, "share": None, "name": None, "count": 15, "seed": 1},
        {"form": {"_target_": "made.of.something"}},
        {"changed": "x"},
        {"odd": "x"},
        {"late": "x"},
        {"unknown": "x"},
    ],
)
def test_what_is_right_or_not_certain_is_left_to_the_constructor(thing, settings):
    checks.refuse(thing, settings, "at")


@pytest.mark.parametrize("target", ["torch.optim.Adam", "nstexp.no.such.Thing", "nstexp.core.losses.Nothing", "", "x"])
def test_what_cannot_be_read_has_no_checks(target):
    assert checks.checks_of(target) == ()


def test_a_task_says_the_whole_key_itself():
    with pytest.raises(UserError, match=r"^task\.crop=x is unknown, choose one of none, square$"):
        checks.refuse("nstexp.tasks.evaluate.evaluate", {"crop": "x"}, "task")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["weights.beta=abc"], "weights.beta=abc is not a number"),
        (["+weights.gram=-1"], "weights.gram=-1: a weight is a finite number, 0 or larger"),
        (["loss.gram.form=x"], "loss.gram.form=x is unknown, choose one of gatys, mse_hw, mse_chw, keras"),
        (["backbone.pad=x"], "backbone.pad=x is unknown, choose one of zeros, reflect, replicate, circular"),
        (
            ["method=cin", "task=train", "generator.up=x"],
            "generator.up=x is unknown, choose one of nearest, transposed",
        ),
        (["method=adain", "task=train", "data.seed=-1"], "data.seed=-1: give a whole number, 0 or larger"),
        (
            ["layers.style=[image,relu4_9]", "loss=[content,gram]", "backbone=random"],
            "loss.gram.layers, by default from layers.content or layers.style: unknown layer 'relu4_9': vgg19-random-0 "
            "has relu1_1, relu1_2, pool1, relu2_1, relu2_2, pool2, relu3_1, relu3_2, relu3_3, relu3_4, pool3, relu4_1, "
            "relu4_2, relu4_3, relu4_4, pool4, relu5_1, relu5_2, relu5_3, relu5_4, pool5",
        ),
        (["task=video", "video.fps=-1"], "video.fps=-1: give frames per second, such as 25 or 30000/1001"),
    ],
)
def test_a_wrong_command_is_refused_before_torch_is_imported(words, sentence, tmp_path):
    code = (
        "import sys\nfrom nstexp.cli import main\n"
        f"sys.argv = ['nstexp', *{words!r}]\n"
        "try:\n    main()\nfinally:\n    print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stderr.strip(), done.stdout.strip(), done.returncode) == (sentence, "[]", 2)
