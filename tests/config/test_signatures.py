"""What the source says of a function's or class's arguments is what Python says when it has imported it."""

import inspect
import subprocess
import sys
from contextlib import suppress

import pytest
import yaml
from hydra.utils import get_object

from nstexp.config.keys import CONF
from nstexp.config.signatures import parameters, settings_of
from nstexp.data.batches import Pairs


def targets(value) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = {value["_target_"]} if isinstance(value, dict) and "_target_" in value else set()
    return own.union(*map(targets, inner))


TARGETS = sorted(set().union(*(targets(yaml.safe_load(f.read_text(encoding="utf-8"))) for f in CONF.rglob("*.yaml"))))


def imported(target: str) -> set[str] | None:
    """What Python says; a method's settings and what data modules pass on to `Pairs` are arguments, too."""
    found = get_object(target)
    passed_to = getattr(found, "settings_type", None) or (Pairs if _is_pairs(found) else None)
    own = list(inspect.signature(found).parameters.values())
    if passed_to is None and any(p.kind is p.VAR_KEYWORD for p in own):
        return None
    own += inspect.signature(passed_to).parameters.values() if passed_to else []
    return {p.name for p in own if p.kind is not p.VAR_KEYWORD}


def _is_pairs(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Pairs)


@pytest.mark.parametrize("target", TARGETS)
def test_the_source_says_what_python_says(target):
    with suppress(ImportError):
        said, is_so = parameters(target), imported(target)
        assert said is None or said == is_so


def test_most_targets_are_found():
    assert len(TARGETS) > 50
    unknown = [target for target in TARGETS if target.startswith("nstexp.") and not parameters(target)]
    assert [target for target in unknown if imported(target)] == []


@pytest.mark.parametrize("target", ["no.such.Thing", "nstexp.no_such", "torch.optim.Adm", "math.sqrt", "", "x"])
def test_what_has_no_source_takes_whatever_it_takes(target):
    assert parameters(target) is None


def test_a_methods_settings_are_found_and_read_without_torch():
    read = (
        "import sys, nstexp.cli; from importlib import import_module\n"
        "from nstexp.config.signatures import settings_of\n"
        "for name in ('gatys.Gatys', 'adain.AdaIN', 'feedforward.FeedForward'):\n"
        "    module, _, kind = settings_of(f'nstexp.methods.{name}').rpartition('.')\n"
        "    print(getattr(import_module(module), kind).__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    names = "GatysSettings", "AdaINSettings", "FeedForwardSettings"
    assert done.stdout.splitlines() == [f"{name} False" for name in names]
    assert settings_of("nstexp.core.losses.GramLoss") is None and settings_of("no.such.Thing") is None
