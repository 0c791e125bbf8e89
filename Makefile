# Everything is set up from here: a Python of 3.11 or newer, make and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all check fix clean

demo: $(VENV)/.demo  ## pre-train on real images, evaluate, write a report
	$(BIN)/moco demo --run $(RUN)

test: $(VENV)/.dev check  ## lint, types, the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.dev check  ## the slow tests too
	$(BIN)/python -m pytest -n 2

check: $(VENV)/.dev  ## lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(VENV)/.dev  ## format, and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment, keep runs
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moco needs Python 3.11 or newer; make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@ $(VENV)/.demo
