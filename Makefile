# Every target sets up what it needs; start with `make demo`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# For pytest, as in: make test-fast ARGS="-k ledger -x"
ARGS ?=
# auto: `make test` leaves the Kafka lane out, loudly, where it cannot run. required: it fails.
KAFKA_LANE ?= auto
TOOLCHAIN := $(BIN)/python -m tests.kafka.toolchain
# For `make soak`: how long, and what decides the order of the faults (none: another one each time).
MINUTES ?= 10
SEED ?=
# Of the benchmarks: names of rows, or what they begin with (none: all).
ROWS ?=

.PHONY: help demo test test-fast test-kafka properties mutants faults soak check docs format bench bench-quick clean
# What has many cases: `make test` runs some of them, always the same, `make properties` very many.
PROPERTIES := tests/model tests/testing tests/test_at_random.py tests/committing/test_exactly_once_at_random.py \
  tests/delivering/test_ledger_model.py tests/test_cancel_everywhere.py

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(READY) ## The main job on the embedded broker, or on a real one: BROKER=kafka://HOST:PORT
	@$(BIN)/python -m transport demo $(if $(BROKER),--broker $(BROKER))

test: $(READY) ## All tests: the fast lane, then the Kafka lane where Java 17 and Maven are found
	@mkdir -p .pytest_cache
	@$(BIN)/pytest $(ARGS) | tee .pytest_cache/fast.txt
	@if [ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || missing=$$($(TOOLCHAIN) 2>&1); then \
	  $(BIN)/pytest -m kafka $(ARGS) | tee .pytest_cache/kafka.txt; \
	  echo "fast lane:  $$(tail -n 1 .pytest_cache/fast.txt)"; \
	  echo "Kafka lane: $$(tail -n 1 .pytest_cache/kafka.txt)"; \
	else \
	  echo "fast lane:  $$(tail -n 1 .pytest_cache/fast.txt)"; \
	  echo "!!! THE KAFKA LANE WAS LEFT OUT: nothing was tested on a real Apache Kafka."; \
	  sed 's/^/!!! /' <<< "$$missing"; \
	  echo "!!! Then run 'make test-kafka'. Or, on a cluster of your own, with Python alone:"; \
	  echo "!!!   KAFKA_BOOTSTRAP_SERVERS=HOST:PORT make test-kafka"; \
	  [ "$(KAFKA_LANE)" != required ]; \
	fi

test-fast: $(READY) ## The fast lane alone: no Kafka, no Java; ARGS="..." goes to pytest
	@$(BIN)/pytest $(ARGS)

test-kafka: $(READY) ## The Kafka lane alone; KAFKA_BOOTSTRAP_SERVERS stands in for a broker of its own
	@[ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || $(TOOLCHAIN)
	@$(BIN)/pytest -m kafka $(ARGS)

properties: $(READY) ## The invariants in ten thousand cases, many of them new each time
	@EFFORT=long $(BIN)/pytest $(PROPERTIES) $(ARGS)

mutants: $(READY) ## How many changes of the rules the tests notice; FILE=ledger.py for one file
	@$(BIN)/python -m tests.mutants $(FILE)

faults: $(READY) ## Three real brokers and the network before them, broken in all ways under load
	@$(TOOLCHAIN) --faults
	@$(BIN)/pytest -m faults $(ARGS)

soak: $(READY) ## The same faults at random: MINUTES=10 SEED=7
	@$(TOOLCHAIN) --faults
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

check: $(READY) ## ruff, mypy --strict on both packages, and the docs without a warning
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# Not with --quiet: it hides warnings from --strict, too.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: $(READY) ## Build the docs as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(READY) ## Let ruff put the code in its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## All benchmarks, against other clients; results in benchmarks/results; ROWS="NAME ..."
	@[ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || $(TOOLCHAIN)
	@$(BIN)/python -m benchmarks $(ROWS)

bench-quick: $(READY) ## Four minutes of them, and what fell since benchmarks/baseline.json
	@[ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || $(TOOLCHAIN)
	@$(BIN)/python -m benchmarks --quick

clean: ## Remove the environment, Kafka's jars and all caches
	rm -rf .venv .kafka .bench .hypothesis .mypy_cache .pytest_cache .ruff_cache dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
