# Two commands for a machine that has git, make and Python >= 3.10 only. Both make .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo quick test test-cluster test-slurm test-ray lint docs clean

demo: .venv/.installed
	$(BIN)/python -m nstexp experiment=demo logger=csv

test: .venv/.installed-dev
	$(BIN)/python scripts/install_browser.py
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

# At each save: no whole commands, no browser, no cluster. Every module of nstexp has a test among these.
quick: .venv/.installed-dev
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not browser and not cluster"

test-cluster: test-slurm test-ray

# Slurm for real: installs Debian's Slurm where that is possible, and starts one of two nodes on this machine.
test-slurm: .venv/.installed-dev
	@if ! command -v sbatch >/dev/null && { [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; }; then \
		echo "Slurm tests skipped: Slurm is not installed, and installing it takes root and apt-get"; exit 0; fi; \
	if ! command -v sbatch >/dev/null; then \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >/dev/null || \
		{ echo "Slurm tests skipped: apt-get cannot install slurm-wlm and munge"; exit 0; }; fi; \
	NSTEXP_TEST_SLURM=1 $(BIN)/python -m pytest tests/sweeps/test_slurm.py

# Ray is no part of the other tests: its launcher wants an old cloudpickle.
test-ray: .venv/.installed-dev
	@if ! $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,ray]'; then \
		echo "Ray tests skipped: pip cannot install it"; exit 0; fi; \
	NSTEXP_TEST_RAY=1 $(BIN)/python -m pytest tests/sweeps/test_ray.py

lint: .venv/.installed-dev
	$(BIN)/ruff check .

# The site, into site/. A broken link or a missing picture is an error.
docs: .venv/.installed-docs
	$(BIN)/mkdocs build --strict

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv
