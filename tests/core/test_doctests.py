"""The examples in the docstrings of nstexp.core are correct."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import nstexp.core

MODULES = sorted(module.name for module in pkgutil.walk_packages(nstexp.core.__path__, "nstexp.core."))
# Modules whose functions need weights, files or devices, or whose results are too large for an example.
WITHOUT_EXAMPLES: set[str] = set()


def examples(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name, extraglobs={"torch": torch})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_are_correct(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    messages: list[str] = []
    for test in examples(name):
        runner.run(test, out=messages.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(messages)
