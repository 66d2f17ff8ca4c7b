# Limner. `make demo` and `make test` do their own set-up; `make help` lists the rest.
#
#   VENV=path          where the virtual environment is made (default .venv)
#   BOOTSTRAP=python   the Python that makes it (default: the first one found that is 3.11 or newer)
#   LIMNER_TORCH=...   a pip requirement or a wheel to install as torch, instead of the pinned release
#   JOBS=n             how many test processes run at once (default 2)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
TORCH := $(or $(LIMNER_TORCH),$(shell grep '^torch==' constraints.txt))
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -m 1 '^GPU')
SOURCES := src tests benchmarks tools examples notebooks
# One thread a process: the tests run side by side, and results do not depend on the number of cores.
# Bytecode is kept, where the machine forbids it too: else each of the processes that tests start compiles anew.
TESTS := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: help demo test check format image setup clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

demo: $(VENV)/.limner  ## train two LoRAs on the embedded base and make a third in one pass; results in demo/
	@echo "demo: training on the embedded base"
	@$(BIN)/limner demo --out demo

test: $(VENV)/.limner-dev  ## every test, the slow ones too (up to 15 minutes)
	@echo "test: every test, $(JOBS) at a time"
	@$(TESTS)

check: $(VENV)/.limner-dev  ## what every commit must pass, in 90 s: format, lint, layers, types, tests of what changed
	@JOBS=$(JOBS) $(BIN)/python tools/check.py

format: $(VENV)/.limner-dev  ## rewrite the code in the house's form, and the pages that are made from it
	@$(BIN)/ruff check --fix --quiet $(SOURCES) || true
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/python tools/recipe_page.py
	@$(BIN)/python tools/python_page.py
	@$(BIN)/python tools/notebook.py

image:  ## the container of the Dockerfile, built and started, where docker runs
	@if docker info >/dev/null 2>&1; then docker build -t limner . && docker run --rm limner --version; \
	else echo "image: skipped, as no docker daemon runs here"; fi

setup: $(VENV)/.limner-dev  ## only the set-up, with what developers need

clean:  ## remove the virtual environment and everything that was built
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Set-up. The stamps make a second call instant; they age when pyproject.toml or constraints.txt change.

$(VENV)/.limner: pyproject.toml constraints.txt
	@BOOTSTRAP="$(BOOTSTRAP)" bash tools/venv "$(VENV)"
	@echo "setup: torch ($(TORCH); $(or $(GPU),no NVIDIA GPU found: it will run on the CPU)): a minute or more"
	@$(BIN)/python -m pip install -qq $(if $(LIMNER_TORCH),,-c constraints.txt) $(TORCH)
	@echo "setup: limner and what it needs$(if $(GPU), and 8-bit optimizers)"
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(BIN)/python -m pip install -qq -c $(VENV)/constraints.txt -e ".$(if $(GPU),[gpu])"
	@touch $@

$(VENV)/.limner-dev: $(VENV)/.limner
	@echo "setup: tests and lints"
	@$(BIN)/python -m pip install -qq -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $@
