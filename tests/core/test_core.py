"""What `nstexp.core` offers to a notebook, and what importing it costs."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest

from nstexp import core
from nstexp.core import losses
from tests.helpers import ROOT


@pytest.mark.parametrize("name", core.__all__)
def test_every_name_is_the_one_of_its_module(name):
    home = next(home for home, names in core.HOMES.items() if name in names)
    assert getattr(core, name) is getattr(import_module(f"nstexp.core.{home}"), name)
    assert name in dir(core)


def test_no_name_is_promised_twice_or_that_of_a_module():
    names = [name for names in core.HOMES.values() for name in names]
    assert len(names) == len(set(names)) > 70
    modules = {path.stem for path in (ROOT / "nstexp" / "core").iterdir()}
    assert not modules & set(names)


def test_all_of_the_losses_are_there():
    assert set(losses.__all__) <= set(core.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'nstexp\.core' has no attribute 'gramm'$"):
        core.gramm  # noqa: B018 (looking it up is the test)
    with pytest.raises(ImportError):
        exec("from nstexp.core import gramm")


@pytest.mark.parametrize("module", ["nstexp.core", "nstexp.core.errors"])
def test_errors_cost_no_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'PIL', 'av'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_notebook_gets_everything_by_one_import():
    code = "from nstexp.core import *; print(LossSet({'gram': GramLoss(['relu1_1'])}, {'beta': 1.0}).layers())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == ("relu1_1",)
