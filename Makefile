# Two commands for a machine that has git, make and Python >= 3.10 only. Both make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/.installed
	$(BIN)/python -m nstexp experiment=demo logger=csv

test: .venv/.installed-dev
	$(BIN)/python scripts/install_browser.py
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

lint: .venv/.installed-dev
	$(BIN)/ruff check .

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
