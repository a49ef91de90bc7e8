# Everything a newcomer needs: `make analyze` and `make test`. Both install first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUN ?= runs/modular-addition

WORKERS ?= auto
ATHERIS = atheris>=3.0
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: help install analyze test test-all test-portable lint types bench build docs clean

help:
	@echo "make analyze   analyse the bundled modular-addition model into $(RUN)"
	@echo "make test      run the tests of every day; TESTS=tests/degeneracy for some, WORKERS=1"
	@echo "make test-all  run the slow ones too, and try many new examples (nightly)"
	@echo "make test-portable"
	@echo "               run the tests under all instruction sets and libraries there are here"
	@echo "make lint      check style, types and which room imports which"
	@echo "make bench     closed forms against autodiff; CASES=block for one case"
	@echo "make docs      build the site of the documentation into build/site"
	@echo "make build     build the wheel and the source distribution into dist"
	@echo "make install   create $(VENV) with pinned versions"
	@echo "make clean     remove $(VENV), caches and builds (runs stay)"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("libgraph needs Python 3.11 or later: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
# An environment of before has the same files under the distribution's old name.
	@if $(BIN)/python -m pip show --quiet libgraph 2> /dev/null; then $(BIN)/python -m pip uninstall --quiet --yes libgraph; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

analyze: $(INSTALLED)
	$(BIN)/libgraph analyze modular-addition --out $(RUN) --force

test: $(INSTALLED)
	$(PYTEST) -m "not slow" $(TESTS)

# Files are fuzzed with atheris where it can be had, and else with Hypothesis.
test-all: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(ATHERIS)' || echo "$(ATHERIS) cannot be installed: Hypothesis fuzzes in its place."
	LIBGRAPH_TESTS=thorough $(PYTEST) $(TESTS)

# SETTING=avx2 for those settings only that have this in their name.
test-portable: $(INSTALLED)
	$(BIN)/python tests/portable.py $(if $(SETTING),--setting "$(SETTING)") -m "not slow" $(TESTS)

lint: $(INSTALLED) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# The folders `backends` and `cli` install under other names; links tell mypy which.
types: $(INSTALLED)
	mkdir -p build/mypy
	ln -sfn ../../backends build/mypy/libgraph_backends
	ln -sfn ../../cli build/mypy/libgraph_cli
	MYPYPATH=build/mypy $(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/bench.py $(CASES)

# Into a folder that is empty: of what lies in dist, one would upload all.
build: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --outdir dist

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
