# Everything that a checkout needs goes into .venv, and the external programs into a cache outside the checkout.

.DEFAULT_GOAL := help
.PHONY: help demo test test-kube lint bench chaos setup clean
.SILENT:

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
BIN := .venv/bin

help:  ## show this list
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: setup  ## watch a release take over a running service on three nodes; KEEP=1 leaves it running
	$(BIN)/hydra dev demo $(if $(KEEP),--keep)

test: setup lint  ## check the code, then run all tests
	$(BIN)/python tools/programs.py all tests
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(ARGS)

test-kube: setup  ## test on a real Kubernetes cluster made on this machine; needs root
	tools/kubernetes/setup.sh
	$(BIN)/python -m pytest tests/kube $(ARGS)

lint: setup  ## check style, types and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## print this machine and how fast Hydra is on it
	$(BIN)/python -m tests.bench $(ARGS)

chaos: setup  ## harm a cluster under traffic at random and check every promise; SEED=… MINUTES=5
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

setup:  ## make the environment in .venv and find or build the external programs
	tools/setup.sh $(PYTHON)

clean:  ## remove the environment and everything else made here; the cache of programs stays
	rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
