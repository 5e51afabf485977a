# Each target installs what it needs. Start with `make demo`.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Arguments for pytest, as in: make test-fast ARGS="-k ledger -x"
ARGS ?=
# Both lanes run in several processes, one for each core. In the Kafka lane each has its own broker.
# In a single process: make test-fast PARALLEL=
PARALLEL ?= -n auto --maxprocesses=4 --dist loadgroup
# If the Kafka lane cannot run, `make test` skips it and says so (auto), or fails (required).
export KAFKA_LANE ?= auto
TOOLCHAIN := $(BIN)/python -m tests.kafka.toolchain
# For `make docs-version`: the branch of git that has the docs of all versions.
BRANCH ?= gh-pages
# For `make soak`: the minutes, and the seed of the faults' order (empty: a new one each time).
MINUTES ?= 10
SEED ?=
# For `make bench`: the names of rows, or the beginnings of names (empty: all rows).
ROWS ?=

# The parts of `make check`. Each is a hook of .pre-commit-config.yaml, too.
CHECKS := check-code check-types check-imports check-spelling check-links docs

.PHONY: help demo test test-fast test-kafka test-older test-browser screenshots matrix properties \
  mutants faults soak $(CHECKS) check docs-version format bench bench-quick clean
# Tests with many cases: `make test` runs a fixed few of them, `make properties` very many.
PROPERTIES := tests/model tests/testing tests/test_at_random.py tests/committing/test_exactly_once_at_random.py \
  tests/delivering/test_ledger_model.py tests/test_cancel_everywhere.py \
  tests/handling/test_key_order_model.py tests/handling/test_handler.py tests/handling/test_handlers_at_random.py \
  tests/handling/test_handlers_cancelled.py tests/handling/test_exactly_once_at_random.py
# What an older broker could do in another way: commits, rebalances, transactions, logins and batches.
OLDER := $(addprefix tests/drivers/, test_committing.py test_rebalancing.py test_transactions.py kafka/test_topics.py) \
  $(addprefix tests/kafka/test_, acceptance_crashes.py acceptance_exactly_once.py batches_of_others.py \
  java_serializers.py offsets.py security.py)
# The files and folders in which codespell checks the spelling.
SPELLED := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs transport nurseries tests examples \
  benchmarks Makefile mkdocs.yml pyproject.toml compose.yaml Dockerfile .ci .github .pre-commit-config.yaml

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(READY) ## Run a demo in memory, or on a real broker: BROKER=kafka://HOST:PORT
	@$(BIN)/python -m transport demo $(if $(BROKER),--broker $(BROKER))

test: $(READY) ## Run all tests: the fast lane, then the Kafka lane if Java 17 and Maven are found
	@mkdir -p .pytest_cache
	@$(BIN)/pytest $(PARALLEL) $(ARGS) | tee .pytest_cache/fast.txt
	@if [ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || missing=$$($(TOOLCHAIN) 2>&1); then \
	  $(BIN)/pytest $(PARALLEL) -m kafka $(ARGS) | tee .pytest_cache/kafka.txt; \
	  echo "fast lane:  $$(tail -n 1 .pytest_cache/fast.txt)"; \
	  echo "Kafka lane: $$(tail -n 1 .pytest_cache/kafka.txt)"; \
	else \
	  echo "fast lane:  $$(tail -n 1 .pytest_cache/fast.txt)"; \
	  echo "!!! THE KAFKA LANE WAS SKIPPED: nothing was tested on a real Apache Kafka."; \
	  sed 's/^/!!! /' <<< "$$missing"; \
	  echo "!!! Then run 'make test-kafka'. Or use a cluster of your own, which needs only Python:"; \
	  echo "!!!   KAFKA_BOOTSTRAP_SERVERS=HOST:PORT make test-kafka"; \
	  [ "$(KAFKA_LANE)" != required ]; \
	fi

test-fast: $(READY) ## Run only the fast lane, without Kafka and Java; ARGS="..." goes to pytest
	@$(BIN)/pytest $(PARALLEL) $(ARGS)

test-kafka: $(READY) ## Run only the Kafka lane; KAFKA_VERSION=3.9, or KAFKA_BOOTSTRAP_SERVERS
	@[ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || $(TOOLCHAIN)
	@$(BIN)/pytest $(PARALLEL) -m kafka $(ARGS)

test-older: $(READY) ## Run a part of the Kafka lane on Kafka 3.9
	@export KAFKA_VERSION=3.9; $(TOOLCHAIN); $(BIN)/pytest $(PARALLEL) -m kafka $(OLDER) $(ARGS)

test-browser: $(READY) ## Test the page in Chromium, which apt installs if it is missing
	@.ci/chromium
	@$(BIN)/pytest -m browser tests/web $(ARGS)

screenshots: $(READY) ## Make the pictures of docs/page.md again, in three minutes
	@.ci/chromium
	@$(BIN)/python -m tests.web.screenshots

matrix: $(READY) ## Run the fast lane on each other Python that is found, each in its own environment
	@.ci/matrix $(ARGS)

properties: $(READY) ## Test the invariants in ten thousand cases, many of them new each time
	@EFFORT=long $(BIN)/pytest $(PROPERTIES) $(ARGS)

mutants: $(READY) ## Count the broken rules that the tests detect; one file: FILE=delivering/ledger.py
	@$(BIN)/python -m tests.mutants $(FILE)

faults: $(READY) ## Test with three real brokers under load, and faults of them and their network
	@$(TOOLCHAIN) --faults
	@$(BIN)/pytest -m faults $(ARGS)

soak: $(READY) ## Run the same faults in random order: MINUTES=10 SEED=7
	@$(TOOLCHAIN) --faults
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

check: $(CHECKS) ## Run ruff, mypy, import-linter and codespell, check the links, and build the docs

check-code: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(READY)
	$(BIN)/mypy

check-imports: $(READY)
	$(BIN)/lint-imports

check-spelling: $(READY)
	$(BIN)/codespell $(SPELLED)

check-links: $(READY)
	$(BIN)/pytest -q tests/test_links.py

docs: $(READY) ## Build the docs as a site in site/
	@# Without --quiet, which hides warnings from --strict, too.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-version: export PATH := $(abspath $(BIN)):$(PATH)
docs-version: $(READY) ## Commit the docs of this version to the branch gh-pages, or to BRANCH=NAME
	mike deploy --branch $(BRANCH) --update-aliases \
	  "$$(python -c 'import transport; print(*transport.__version__.split(".")[:2], sep=".")')" latest
	mike set-default --branch $(BRANCH) latest

format: $(READY) ## Fix and format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## Run all benchmarks and write benchmarks/results, or print some: ROWS="NAME ..."
	@[ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || $(TOOLCHAIN)
	@$(BIN)/python -m benchmarks $(ROWS)

bench-quick: $(READY) ## Run four minutes of benchmarks, and compare with benchmarks/baseline.json
	@[ -n "$${KAFKA_BOOTSTRAP_SERVERS:-}" ] || $(TOOLCHAIN)
	@$(BIN)/python -m benchmarks --quick

clean: ## Remove the environment, Kafka's jars and all caches
	rm -rf .venv .venv-* .kafka .bench .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
	  .ruff_cache dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
