# Needs Python 3.11+ and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=
LOCK_ARGS ?=

.PHONY: help install demo sandbox run image chaos soak bench fuzz test lint check format lock audit clean
.DEFAULT_GOAL := help

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "make %-10s %s\n", $$1, $$2}'

install: $(VENV)/installed ## Install what everything needs into .venv

$(VENV)/installed: requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  version=`$(PYTHON) --version 2>/dev/null || echo "not installed"`; \
	  echo "Kommo Relay needs Python 3.11 or newer; $(PYTHON) is $$version. Name another one: make PYTHON=python3.12 install"; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: install ## See deals and emails flow both ways, against a sandbox (KEEP=1 leaves it running)
	@KEEP=$(KEEP) $(BIN)/python -m sandbox.demo

sandbox: install ## Run fake Kommo, Encharge and Ortto to play with
	@$(BIN)/python -m sandbox

run: .env install ## Start the service from .env
	@MALLOC_ARENA_MAX=2 $(BIN)/gunicorn -c config/gunicorn.conf.py wsgi:app

.env:
	@echo "There is no .env yet: cp .env.example .env, fill it in, and try again."; exit 1

image: ## Build the Docker image kommo-relay, labelled with the version and the commit
	@docker build --build-arg COMMIT=`git rev-parse HEAD` -t kommo-relay .

chaos: install ## Kill, freeze and starve it under load, and audit what arrived (SECONDS, SEED, DATABASE)
	@$(BIN)/python -m bench.chaos --seconds $(or $(SECONDS),300) --seed $(or $(SEED),1) --database $(or $(DATABASE),both)

soak: install ## Run it for an hour under load, restarts and faults, and see what grows (MINUTES, SEED, DATABASE)
	@$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1) --database $(or $(DATABASE),sqlite)

bench: install ## Measure how fast it is, beside a plain reference (BENCH_ARGS="--quick", "--only burst", …)
	@$(BIN)/python -m bench.speed $(BENCH_ARGS)

fuzz: install ## Throw at readers and rules what nobody thought of (SECONDS for each, FUZZ_ARGS="--target kommo", …)
	@$(BIN)/python -m fuzz --seconds $(or $(SECONDS),60) $(FUZZ_ARGS)

test: install ## Run all tests, or those of PYTEST_ARGS
	@$(BIN)/python -m pytest -n 4 --dist worksteal $(PYTEST_ARGS)

lint: install ## Check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint test ## Format, lint, types and tests, as CI does

format: install ## Format the code and mend what lint can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(TOOLS)/installed ## Pin all that requirements*.txt bring along, with hashes (LOCK_ARGS=--upgrade for the newest)
	@for name in requirements requirements-dev; do \
	  $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" $(LOCK_ARGS) -o $$name.lock $$name.txt || exit 1; done

audit: $(TOOLS)/installed ## Ask the public lists of vulnerabilities about all that is pinned
	@$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock -r requirements-dev.lock

$(TOOLS)/installed: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 pip-audit==2.10.1
	@touch $@

clean: ## Remove .venv and caches
	rm -rf $(VENV) $(TOOLS) .pytest_cache .mypy_cache .ruff_cache
