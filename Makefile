# omnipam: `make run` and `make test` are all that a fresh machine with Python 3.11 or newer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
ROUNDS ?= 5

.DEFAULT_GOAL := help
.PHONY: help run test lint bench kube soak lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; install Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is too old; Python 3.11 or newer is needed (set PYTHON=…)" >&2; exit 2; }
	@echo "setting up $(VENV), once" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## the operator on the embedded store, with cluster-pool's defaults
	@exec $(BIN)/omnipam operator --log-format=console

test: $(READY) lint ## lint, types and all tests
	@sh tests/node/setup.sh
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

lint: $(READY) ## lint and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## the tables of speed, each figure over a floor of the same run (ONLY=name for one)
	$(BIN)/python -m benchmarks $(ONLY)

kube: $(READY) ## a local Kubernetes API server to try things on; prints the KUBECONFIG to export
	@exec $(BIN)/python -m tests.kube.apiserver

soak: $(READY) ## long runs of faults (ROUNDS=n for longer ones)
	OMNIPAM_SOAK=$(ROUNDS) $(BIN)/pytest -m soak -n 0

lock: $(READY) ## newer versions of all dependencies
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes --quiet --upgrade --no-annotate --no-header --output-file requirements.lock

clean: ## forget the environment and all caches of this checkout
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
