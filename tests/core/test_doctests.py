"""The examples in the docstrings of nstexp.core are correct, and there are many of them."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import nstexp.core

MODULES = sorted(module.name for module in pkgutil.walk_packages(nstexp.core.__path__, "nstexp.core."))
PACKAGES = {"losses", "measures", "networks", "optim", "runtime"}
WITHOUT_EXAMPLES = {  # names only, or work that needs files or many steps
    "losses",
    "measures",
    "measures.features",
    "measures.learned",
    "measures.terms",
    "names",
    "networks",
    "networks.adain_decoder",
    "networks.generators",
    "networks.model_files",
    "networks.ridge",
    "networks.vgg",
    "optim",
    "optim.descent",
    "optim.lbfgs",
    "runtime",
    "runtime.memory",
}


def docstrings_with_examples(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder().find(module, name, extraglobs={"torch": torch})
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_are_correct(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    reports: list[str] = []
    for test in docstrings_with_examples(name):
        runner.run(test, out=reports.append)
    assert runner.failures == 0, "".join(reports)


def test_modules_with_functions_have_examples():
    without = {name for name in MODULES if not docstrings_with_examples(name)}
    assert without == {f"nstexp.core.{name}" for name in WITHOUT_EXAMPLES}
    assert {name.split(".")[2] for name in MODULES} > PACKAGES


def test_there_are_many_examples():
    examples = [example for name in MODULES for test in docstrings_with_examples(name) for example in test.examples]
    assert len(examples) >= 150
    assert sum(bool(example.want) for example in examples) >= 100


def test_a_wrong_example_is_found():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=lambda report: None)
    assert runner.failures == 1
