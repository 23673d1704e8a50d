# Every target needs python3 (with venv) and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
PYTEST := $(BIN)/python -m pytest
COMPILE = VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
  --no-header --extra embedded --extra export --extra build pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help install demo test test-one-half test-other-half lint unit bench up down fmt lock docs

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP) ## .venv with everything that is pinned

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

demo: install ## the whole path on this machine, as a story
	$(BIN)/edgetls demo

up: install ## the whole platform on this machine, until Ctrl-C
	$(BIN)/edgetls up

down: install ## ends what `make up` started
	$(BIN)/edgetls down

lint: install ## format, ruff, mypy, import-linter, the layout's own rules, generated documents
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.lint
	$(BIN)/python -m tools.docs --check

test: lint ## lint, then every test
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-one-half test-other-half
	$(PYTEST) tests/e2e tests/faults tests/upgrade

# Most of an integration test is waiting: two halves at once leave a processor for each.
ONE_HALF := tests/unit $(addprefix tests/integration/,billing config delivery edge_sync)
test-one-half: install
	$(PYTEST) $(ONE_HALF)

test-other-half: install
	$(PYTEST) tests/contract tests/integration $(addprefix --ignore=,$(ONE_HALF))

unit: install ## the fast tests
	$(PYTEST) tests/unit tests/contract

bench: install ## measures, writes bench/results.json and the table of the README
	$(BIN)/python -m bench

fmt: install ## format, import order and what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install ## pins again what pyproject.toml asks for: requirements.lock, and without the tools -run.lock
	$(COMPILE) --extra dev --output-file requirements.lock
	$(COMPILE) --constraint requirements.lock --output-file requirements-run.lock

docs: install ## docs/asyncapi, docs/findings.md and docs/settings.md from the code
	$(BIN)/python -m tools.docs
