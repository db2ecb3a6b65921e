# Two commands do everything on a fresh machine: `make demo` and `make test`. Each does first what it needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# The first that can make a virtual environment of 3.11 or newer; another one: make install PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
# Two processes: one drives the Ray cluster, the other runs everything else.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# They judge how long a service does not answer, so nothing runs beside them.
ALONE := tests/chaos tests/soak

# make chaos: what runs, and how much
SEEDS ?= 1 2 3 4 5
BROKERS ?= sqlite redis amqp sqs
IMAGES ?= 2000
FAULTS ?= 10
# not empty: all images are stored when they are handed in, by 8 clients
UPLOADS ?=

# make soak: in which order, and how often each
SEED ?= 1
ROUNDS ?= 1

.PHONY: help install demo serve test coverage test-slow nodes chaos soak bench wheel clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Create .venv and install everything into it

$(INSTALLED): pyproject.toml
	@$(or $(PYTHON),false) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, with its \
	venv module (Debian, Ubuntu: apt install python3.11-venv); here is $$(python3 --version 2>&1)." \
	"Name another one: make install PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv: some gigabytes, most of them torch; it takes minutes, and is done again only when pyproject.toml changes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install ## Serve on this machine, post real photos, show what was found, stop
	$(BIN)/visiongraph demo configs/demo.yaml

serve: install ## The same server, kept running until Ctrl-C
	$(BIN)/visiongraph serve configs/demo.yaml

test: install ## Linters, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

coverage: install ## Branches of graph and classifiers that their tests reach; tests take twice as long under it
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-report=term:skip-covered --cov-fail-under=95 tests/graph tests/classifiers

test-slow: install ## The tests that take long: whole clusters, memory, many more generated cases
	$(BIN)/python -m pytest -m slow $(ALONE)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow $(ALONE:%=--ignore=%)

nodes: install ## Clusters of several nodes on this machine: nodes die, are drained, come and go with the load
	$(BIN)/python -m pytest -m nodes tests/serve_app/deployments

chaos: install ## Images through the queues while replicas, brokers and stores die; SEEDS, BROKERS, IMAGES, FAULTS, UPLOADS choose
	PYTHONPATH=tests/plugins $(BIN)/python -m chaos --seeds $(SEEDS) --brokers $(BROKERS) --images $(IMAGES) --faults $(FAULTS) $(if $(UPLOADS),--uploads)

soak: install ## Changes, kills and bad images while 32 clients use a pipeline; SEED, ROUNDS choose
	PYTHONPATH=tests/plugins $(BIN)/python -m soak --seed $(SEED) --rounds $(ROUNDS)

bench: install ## Measurements; see benchmarks/README.md
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.serving

wheel: install ## Build the wheel that cluster.yaml installs
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## Remove what make has made
	rm -rf .venv dist demo-output .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
