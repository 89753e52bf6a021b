# make demo | test | lint | clean | help. Everything lives in .venv and demo/; nothing is installed elsewhere.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DATA ?=
RESOLUTION ?=

.PHONY: help demo test lint environment clean
help:
	@echo "make demo                              grow the three networks on scikit-learn's digits, about five minutes on two cores"
	@echo "make demo DATA=folder RESOLUTION=64    the same on your own pictures"
	@echo "make test                              run the tests"
	@echo "make lint                              ruff and shellcheck"
	@echo "make environment                       only make $(VENV), with the versions of constraints.txt"
	@echo "make clean                             remove $(VENV), demo/ and caches; runs/ and data/ are kept"

demo: $(READY)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" launch/demo.sh "$(DATA)" "$(RESOLUTION)"

# one thread a process: tests start several processes, and OpenMP threads that wait for a busy core cost far more than they bring
test: $(READY)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest -n 2 --dist loadgroup

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/shellcheck .ci/run launch/*.sh slurm/*.sh slurm/chain slurm/preflight slurm/box/*.sh

environment: $(READY)

# Made once, and again when a version changes. torch is named exactly, so that pip takes a CPU build where it is set up to find one.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old: wanted Python 3.11 or later; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV) (about 2 GB, a few minutes at most) …"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) .slurm .chromium demo build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
