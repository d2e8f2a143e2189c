# make demo: train, test and export a jet tagger on the jets of this repository
# make test: the fast tests;  make test-all: the slow ones too, but for those of a cluster
# make validate-crate: the demo's RO-Crate by roc-validator, in an environment of its own (.venv-crate)
# make docs: the documentation as a web site, site/index.html
# make test-slurm: the chain and its faults on a Slurm cluster brought up on this machine (as root, on Debian)
# Both make a virtual environment in .venv on first use and reuse it afterwards.

PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# roc-validator wants another version of rich than the rest.
CRATE := .venv-crate
# One process a core, each of one thread; the tests of a file stay together, since they share what is costly to make.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: demo test test-slow test-all test-slurm lint docs validate-crate benchmark-loader clean help

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ERROR: $(PYTHON) is older than Python 3.11. Say which to use: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/snakemake --configfile config/demo.yaml --cores $(CORES)
	@if [ ! results/demo/report.html -nt results/demo/provenance/ro-crate-metadata.json ]; then \
	  $(BIN)/snakemake --configfile config/demo.yaml --report results/demo/report.html; fi
	@$(BIN)/python -m weaver_tasks.summary results/demo

test: $(INSTALLED)
	$(PYTEST)

test-slow: $(INSTALLED)
	$(PYTEST) -m "slow and not slurm"

test-all: $(INSTALLED)
	$(PYTEST) -m "(slow or not slow) and not slurm"

test-slurm: $(INSTALLED)
	$(BIN)/python -m pytest -m slow tests/slurm

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(CRATE)/.installed: .ci/crate-requirements.lock
	$(PYTHON) -m venv $(CRATE)
	$(CRATE)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

validate-crate: $(INSTALLED) $(CRATE)/.installed
	$(CRATE)/bin/python .ci/validate_crate.py results/demo $$($(BIN)/python -c 'import rocrate; print(rocrate.__path__[0])')/data/ro-crate.jsonld

benchmark-loader: $(INSTALLED)
	$(BIN)/python benchmarks/loader.py

clean:
	rm -rf results/demo .snakemake
