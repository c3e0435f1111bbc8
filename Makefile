# Needs Python >= 3.11 (with venv) and make. Choose the interpreter with `make PYTHON=python3.12 test`.
PYTHON ?= python3
WORKERS ?= auto
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
RUN := JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
# Lines are counted from Python 3.12 on, whose own monitoring does so almost for free.
COVERAGE = $$($(BIN)/python -c 'import sys; print("--cov --cov-report=term" if sys.version_info >= (3, 12) else "")')
# Tests in different files and processes use many of the same programs: each is compiled once.
COMPILED := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(VENV)/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# A file stays in one process, which compiles each program that its tests share once.
PYTEST := $(RUN) $(COMPILED) COVERAGE_CORE=sysmon $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=8 --dist loadfile

.PHONY: help install demo test test-all lint format types docs dist clean

help:
	@echo "make demo      meta-train a small optimizer on the CPU, then compare it with the shipped one (minutes)"
	@echo "make test      the quick tests, with coverage from Python 3.12 on (fails below 80 %)"
	@echo "make test-all  every test"
	@echo "make lint      ruff: rules and formatting        make format  let ruff fix them"
	@echo "make types     mypy on the three packages"
	@echo "make docs      the pages of docs/ and the reference, in docs/_build/html (a minute; warnings are errors)"
	@echo "make dist      build sdist and wheel into dist/, and try the wheel in a bare environment"
	@echo "make clean     remove $(VENV), caches and builds (runs/ stays)"

install: $(READY)

# Reinstalls only when pyproject.toml changes: sources are an editable install.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is `$(PYTHON) --version 2>&1`; Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	@touch $@

demo: $(READY)
	rm -rf $(DEMO)
	$(RUN) $(BIN)/meta-train train --preset demo --out $(DEMO)
	$(RUN) $(BIN)/meta-train export $(DEMO) $(DEMO)/demo.safetensors
	$(RUN) $(BIN)/meta-train evaluate --weights $(DEMO)/demo.safetensors --weights flt-v1 --suite demo --out $(DEMO)/evaluation

# Most of the time goes into compiling: `make test` lets XLA optimise less, `make test-all` tests the programs as they are.
test: $(READY)
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "not slow" $(COVERAGE)

test-all: $(READY)
	$(PYTEST) $(COVERAGE)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)
	$(BIN)/mypy

# Everything is read anew (-E): what was warned of once would else pass the second time.
docs: $(READY)
	$(RUN) $(BIN)/sphinx-build -M html docs docs/_build -n -E -q -W --keep-going
	@echo "see docs/_build/html/index.html"

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build
	JAX_PLATFORMS=cpu $(BIN)/python tests/check_dist.py dist

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .coverage .coverage.* htmlcov .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find learned_opt tasks meta_train tests -name __pycache__ -type d -prune -exec rm -rf {} +
