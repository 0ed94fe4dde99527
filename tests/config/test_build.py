"""What is wrong with an object's settings is told with their place in the configuration."""

import pytest
from omegaconf import OmegaConf

from nstexp.config import trust
from nstexp.config.build import Factory, build, prepared
from nstexp.config.moved import MOVED, moved
from nstexp.core.errors import ArgumentError, UserError, choice


class Form:
    """Takes one of two forms, and another object."""

    def __init__(self, form: str = "a", inner: object = None) -> None:
        self.form, self.inner = choice("form", form, ("a", "b")), inner


def quarrels() -> None:
    raise UserError("in its own words")


@pytest.fixture(autouse=True)
def trusted():
    """Configurations may name the classes of this file."""
    with trust.trusting([__name__]):
        yield


FORM, BAD = f"{__name__}.Form", {"_target_": f"{__name__}.Form", "form": "x"}
SAID = "form=x is unknown, choose one of a, b"


@pytest.mark.parametrize(
    ("config", "part", "place"),
    [
        ({"loss": {"gram": BAD}}, "loss", "loss.gram"),
        ({"method": BAD}, "method", "method"),
        ({"method": {"_target_": FORM, "inner": {"deep": BAD}}}, "method", "method.inner.deep"),
        ({"video": BAD, "task": {"_target_": FORM, "inner": "${video}"}}, "task", "video"),
        ({"video": {"own": BAD}, "task": {"_target_": FORM, "inner": "${video}"}}, "task", "video.own"),
        ({"a": {"b": BAD}, "c": "${a}", "task": {"_target_": FORM, "inner": "${c.b}"}}, "task", "a.b"),
    ],
)
def test_a_bad_argument_has_the_place_of_its_settings_in_front(config, part, place):
    cfg = prepared(OmegaConf.create(config))
    with pytest.raises(UserError) as refused:
        build(cfg[part])
    assert str(refused.value) == f"{place}.{SAID}"


@pytest.mark.parametrize("node", ["own", "pointed"])
def test_a_factory_tells_the_place_of_its_settings_when_it_is_called(node):
    cfg = prepared(
        OmegaConf.create(
            {
                "generator": {**BAD, "_partial_": True},
                "own": {"_target_": FORM, "inner": {**BAD, "_partial_": True}},
                "pointed": {"_target_": FORM, "inner": "${generator}"},
            }
        )
    )
    made = build(cfg[node]).inner
    assert isinstance(made, Factory)
    with pytest.raises(UserError) as refused:
        made()
    place = {"own": "own.inner", "pointed": "generator"}[node]
    assert str(refused.value) == f"{place}.{SAID}" and not isinstance(refused.value, ArgumentError)
    assert made(form="b").form == "b"


def test_other_errors_for_the_user_come_through_as_they_are():
    with pytest.raises(UserError, match=r"^in its own words$"):
        build(prepared(OmegaConf.create({"a": {"_target_": f"{__name__}.quarrels"}}))["a"])


def test_what_is_given_is_in_no_configuration():
    inner = object()
    assert build(prepared(OmegaConf.create({"a": {"_target_": FORM}}))["a"], inner=inner).inner is inner


def test_a_name_with_a_reference_in_it_is_that_name():
    own = {"_target_": FORM, "inner": ["\\${x}.png", {"deep": "${place}"}]}
    cfg = prepared(
        OmegaConf.create({"place": "a\\${x} (1).png", "one": own, "two": {"_target_": FORM, "inner": "${place}"}})
    )
    assert str(build(cfg.one).inner[0]) == "${x}.png"
    assert str(build(cfg.one).inner[1]["deep"]) == str(build(cfg.two).inner) == "a${x} (1).png"


@pytest.mark.parametrize("old", MOVED)
def test_old_names_of_modules_are_told_the_new_one_and_go_on_working(old, caplog):
    assert moved(f"{old}.Thing") == f"{MOVED[old]}.Thing"
    assert moved(f"{old}s.Thing") == f"{old}s.Thing"
    cfg = prepared(OmegaConf.create({"loss": {"own": {"_target_": f"{old}.Thing"}}}))
    assert cfg.loss.own._target_ == f"{MOVED[old]}.Thing"
    assert f"loss.own: {old}.Thing is now {MOVED[old]}.Thing" in caplog.messages
