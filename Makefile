# Two commands do everything on a fresh machine: `make demo` and `make test`. Each does first what it needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install demo serve test bench clean

help: ## Say what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Create .venv and install everything into it

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) is here; name another one: make install PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install ## Serve on this machine, post real photos, show what was found, stop
	$(BIN)/visiongraph models configs/demo.yaml --download
	$(BIN)/visiongraph demo configs/demo.yaml

serve: install ## The same server, kept running until Ctrl-C
	$(BIN)/visiongraph models configs/demo.yaml --download
	$(BIN)/visiongraph serve configs/demo.yaml

test: install ## Linters, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90

bench: install ## Measurements; see benchmarks/README.md
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks

clean: ## Remove what make has made
	rm -rf .venv demo-output .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
