# Everything a person or CI does with this repository. Needs Python 3.11+, make and a PyPI mirror.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

# The stamps carry a checksum of the inputs, so a second run does nothing and a changed lock installs.
INPUTS := $(shell cat requirements/runtime.lock requirements/dev.lock pyproject.toml 2>/dev/null | cksum | tr ' ' '-')
RUNTIME := $(VENV)/.runtime-$(INPUTS)
DEV := $(VENV)/.dev-$(INPUTS)

# `make test PYTEST_ARGS="-k budgets -x"`, `make test TEST_WORKERS=0` for one process
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
RUN_ARGS ?=
BENCH_ARGS ?=

# pyright's wrapper otherwise asks the network for newer versions at each run
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# the tests start Fiscus some hundred times: compiled anew, each start takes a fifth longer
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-long check bench format lock install clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUNTIME) ## start Fiscus with a demo tenant on http://127.0.0.1:3472
	@$(VENV)/bin/fiscus demo --serve $(RUN_ARGS)

test: $(DEV) ## all tests, on SQLite and on a real PostgreSQL, with coverage
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile --cov --cov-report=term $(PYTEST_ARGS) || { code=$$?; \
	  if [ $$code -eq 5 ]; then echo "make test: pytest ran no test, which is a failure" >&2; fi; exit $$code; }

test-long: $(DEV) ## the same with many more generated examples
	@FISCUS_TEST_PROFILE=long $(PY) -m pytest --timeout=3600 $(PYTEST_ARGS)

check: $(DEV) ## lint, format, types and layers
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright
	@$(VENV)/bin/lint-imports --no-logo

bench: $(DEV) ## the benchmarks, each beside its yardstick
	@$(PY) -m bench $(BENCH_ARGS)

format: $(DEV) ## rewrite the code in the house format
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

install: $(DEV) ## make the environment and nothing else

# Locks are universal (any platform, any Python from 3.11), hashed, and name no registry.
# `make lock LOCK_ARGS=--upgrade` takes the newest versions.
LOCK := $(PY) -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras $(LOCK_ARGS)
lock: $(DEV) ## regenerate requirements/*.lock from pyproject.toml
	@$(PIP) uv
	@$(LOCK) --group build --output-file requirements/runtime.lock
	@$(LOCK) --group dev --constraint requirements/runtime.lock --output-file requirements/dev.lock
	@! grep -nE '://|index-url|find-links' requirements/*.lock

clean: ## remove the environment and all that tools left
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov
	find src tests $(wildcard bench) -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Fiscus needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): | $(PY)
	@echo "installing Fiscus and what it needs to run (once; about a minute)"
	@$(PIP) --require-hashes -r requirements/runtime.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.runtime-* && touch $@

$(DEV): | $(PY)
	@echo "installing Fiscus and its development tools (once; a minute or two)"
	@$(PIP) --require-hashes -r requirements/dev.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.dev-* $(VENV)/.runtime-* && touch $@ $(RUNTIME)
