# `make demo` and `make test` need a machine with git, make and Python >= 3.10 only. Every target makes the virtual
# environment that it needs. CONTRIBUTING.md says when to use which.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The versions to install. `make test CONSTRAINTS=` takes the newest ones that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable

QUICK := -q --dist loadfile -m "not slow and not browser and not cluster"
YAML := $(wildcard .github/workflows/*.yml *.yml *.cff .pre-commit-config.yaml)

.PHONY: demo quick test test-cluster test-slurm test-ray lint format coverage docs bench wheel check-version newest lowest constraints clean

demo: $(VENV)/.installed
	$(BIN)/python -m nstexp experiment=demo method=swift logger=csv
	$(BIN)/python -m nstexp experiment=demo logger=csv

# Two processes with one thread each: more threads of several processes would wait for each other.
test: lint
	$(BIN)/python scripts/install_browser.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# At each save: no whole commands, no browser, no cluster. Every module of nstexp has a test among these.
quick: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(QUICK)

test-cluster: test-slurm test-ray

# Slurm for real: installs Debian's Slurm where that is possible, and starts one of two nodes on this machine.
test-slurm: $(VENV)/.installed-dev
	@if ! command -v sbatch >/dev/null && { [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; }; then \
		echo "Slurm tests skipped: Slurm is not installed, and installing it takes root and apt-get"; exit 0; fi; \
	if ! command -v sbatch >/dev/null; then \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >/dev/null || \
		{ echo "Slurm tests skipped: apt-get cannot install slurm-wlm and munge"; exit 0; }; fi; \
	NSTEXP_TEST_SLURM=1 $(BIN)/python -m pytest tests/sweeps/test_slurm.py

# The Ray launcher needs an older cloudpickle than constraints.txt names, so the other tests run without Ray.
test-ray: $(VENV)/.installed-dev
	@if ! $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,ray]'; then \
		echo "Ray tests skipped: pip cannot install it"; exit 0; fi; \
	NSTEXP_TEST_RAY=1 $(BIN)/python -m pytest tests/sweeps/test_ray.py

# The checks of .pre-commit-config.yaml on all files, and types. None of them needs a network.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/check-yaml --unsafe $$(find conf -name '*.yaml') $(YAML)
	@if [ -e .git ]; then git ls-files -z ':!nstexp/weights' | \
		xargs -0 $(BIN)/check-added-large-files --enforce-all --maxkb=250; fi
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The whole suite, with the share of lines and branches that it runs, also in processes that the tests start.
coverage: $(VENV)/.installed-dev
	$(BIN)/python scripts/install_browser.py
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=html

# The site, into site/. A broken link or a missing picture is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

# The benchmarks that take minutes, not hours. Run them on a machine that does nothing else.
# Ten minutes on two cores; compared with the last call.
bench: $(VENV)/.installed-dev
	$(BIN)/python scripts/benchmark.py

# The source archive, and the wheel from that archive, into dist/.
wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m hatchling build -t sdist -d dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir dist dist/nstexp-*.tar.gz
	$(BIN)/python -m pytest -q tests/end_to_end/test_package.py -k shipped
	ls -l dist

# Fails unless TAG is the version in pyproject.toml with a v in front.
check-version:
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml); \
	if [ "$(TAG)" != "v$$version" ]; then echo "the tag $(TAG) is not v$$version, the version in pyproject.toml"; exit 1; fi

# The whole suite with the newest versions that pyproject.toml allows.
newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=

# The quick tests with the oldest versions that pyproject.toml allows.
lowest: .venv-lowest/.installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 $(QUICK)

# Renews constraints.txt: the newest versions, for every Python and system that nstexp supports.
# `make constraints UPGRADE=` only adds what a changed pyproject.toml needs. Ray is missing: see test-ray.
UPGRADE ?= --upgrade
constraints: .venv-uv/.installed
	.venv-uv/bin/uv pip compile --quiet --universal --python-version 3.10 $(UPGRADE) --no-annotate \
		--custom-compile-command "make constraints" --output-file constraints.txt \
		--extra dev --extra docs --extra faces --extra heif pyproject.toml

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) '.[docs]'
	touch $@

.venv-uv/.installed:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

.venv-lowest/.installed: pyproject.toml .venv-uv/.installed
	$(PYTHON) -m venv .venv-lowest
	.venv-uv/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-lowest .venv-newest .venv-uv build dist htmlcov site
