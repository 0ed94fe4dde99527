"""A script in this process, for the files that name theirs as SCRIPT."""

import importlib.util
import sys
from contextlib import nullcontext

import pytest


@pytest.fixture
def script(monkeypatch, request):
    """The module of the file's SCRIPT."""
    name = request.module.SCRIPT.stem
    spec = importlib.util.spec_from_file_location(name, request.module.SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # processes that it starts look their functions up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script, capfd):
    """The command in this process: exit code 0, or the one expected; returns what it wrote."""

    def call(*args, expect: int = 0):
        capfd.readouterr()
        with pytest.raises(SystemExit) if expect else nullcontext() as stopped:
            script.main([str(arg) for arg in args])
        assert not expect or stopped.value.code == expect
        return capfd.readouterr()

    return call
