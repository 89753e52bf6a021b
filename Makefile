# make demo | test | test-all | lint | clean | help. Everything lives in .venv and demo/; nothing is installed elsewhere.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
FULL := $(or $(wildcard $(READY)),$(VENV)/.all)
DEMO := $(or $(wildcard $(READY)),$(wildcard $(VENV)/.all),$(VENV)/.demo)
DATA ?=
RESOLUTION ?=

.PHONY: help demo test test-all lint environment clean
help:
	@echo "make demo                              grow the three networks on scikit-learn's digits, in minutes on two cores"
	@echo "make demo DATA=folder RESOLUTION=64    the same on your own pictures"
	@echo "make test                              run the tests; of campaigns (many seeds, many kills, long tables) a sample"
	@echo "make test-all                          run every case of them"
	@echo "make lint                              ruff, mypy and shellcheck"
	@echo "make environment                       only make $(VENV), with all that the verbs may use, at the versions of constraints.txt"
	@echo "make clean                             remove $(VENV), demo/ and caches; runs/ and data/ are kept"

demo: $(DEMO)
	@$(VENV)/bin/python -m hires demo $(if $(DATA),"data=$(DATA)") $(if $(RESOLUTION),"resolution=$(RESOLUTION)")

# one thread a process: tests start several processes, and OpenMP threads that wait for a busy core cost far more than they bring;
# bytecode is kept, whatever the shell says: each process would compile the same files again
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test: $(READY)
	@$(PYTEST)

test-all: $(READY)
	@$(PYTEST) --all

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/shellcheck .ci/run launch/*.sh slurm/*.sh slurm/chain slurm/preflight slurm/box/*.sh

environment: $(FULL)

# Made once, and again when a version changes: .demo has what training needs, .all every verb's wishes, .ready the tests' tools and DALI too.
$(VENV)/.demo $(VENV)/.all $(VENV)/.ready: pyproject.toml constraints.txt
	@launch/install.sh $(PYTHON) $(if $(filter %.ready,$@),test,$(if $(filter %.all,$@),all))
	@touch $@

clean:
	rm -rf $(VENV) .slurm .chromium demo build dist ./*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
