# The commands of this project. `make` without a target lists them.
#
# The virtual environment is made from requirements.lock, and made again when the lock or pyproject.toml changes.
# PYTHON=python3.13 chooses the interpreter; an environment of another Python is replaced.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TESTS ?= tests
WORKERS ?= auto
BROWSERS ?= 2
STORIES ?= *.test.mjs
DEPLOY_SECONDS ?= 1200

# Without PYTHON an existing environment is kept; otherwise the first Python >= 3.11 makes it.
ifndef PYTHON
PYTHON := $(shell for python in $(BIN)/python python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := $(VENV)/.installed-$(VERSION)

.PHONY: help install run test test-servers test-js fuzz audit test-openapi test-browser test-slow test-deploy lint types bench chaos docs hooks lock fmt

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo '  PYTHON=python3.13 chooses the interpreter; ARGS=... goes to the command, TESTS=... and WORKERS=4 to pytest'

install: $(STAMP) ## make .venv from requirements.lock (the command is then .venv/bin/gregor)

$(STAMP): requirements.lock pyproject.toml
	@test -n '$(VERSION)' || { echo 'make: Python 3.11 or newer is needed; name it with PYTHON=...' >&2; exit 1; }
	@if [ -e $(BIN)/python ] && [ "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' || true)" != '$(VERSION)' ]; then rm -rf $(VENV); fi
	@echo 'make: installing from requirements.lock into $(VENV) (Python $(VERSION); about a minute, once)' >&2
	@[ -e $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { echo 'make: no venv module; on Debian: apt install python3-venv' >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

run: $(STAMP) ## run everything on this machine, with an embedded server (ARGS='--gateways 2')
	@exec $(BIN)/gregor dev $(ARGS)

# Each worker starts its own servers on free ports, so tests of two workers never meet.
test: $(STAMP) ## run the tests in parallel (TESTS=tests/unit ARGS='-x -k sync'); all of them include test-js
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow and not fuzz and not deploy' $(TESTS) $(ARGS)
ifeq ($(strip $(TESTS) $(ARGS)),tests)
	@if command -v npm >/dev/null && node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))'; then $(MAKE) --no-print-directory test-js; \
		else echo 'make: without Node 20 and npm the TypeScript client is not tested' >&2; fi
endif

test-servers: $(STAMP) ## run the tests that talk to a Redis or Valkey, on those of this machine
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'redis and not slow' tests/contract tests/property tests/unit $(ARGS)

fuzz: $(STAMP) ## fuzz each parser for FUZZ_SECONDS=60 (a crashing input is kept in .fuzz/), and run thousands of schedules
	$(BIN)/python -m pytest -n $(WORKERS) -m fuzz tests/fuzz tests/property $(ARGS)

test-js: $(STAMP) ## test the TypeScript client against gregor dev, check its sizes and built files (needs node and npm)
	cd clients/js && npm ci --ignore-scripts --no-audit --no-fund --silent
	cd clients/js && npm run --silent check && PYTHON=$(abspath $(BIN)/python) npm run --silent test

test-openapi: $(STAMP) ## lint the OpenAPI document, and compile three clients generated from it (needs npm)
	$(BIN)/python -m pytest -m slow tests/generators $(ARGS)

test-browser: $(STAMP) ## run the stories of tests/browser in Chromium, two files at once (BROWSERS=1); STORIES chooses files
	cd tests/browser && npm ci --silent --no-audit --no-fund && \
		GREGOR=$(abspath $(BIN)/gregor) node --test --test-force-exit --test-concurrency=$(BROWSERS) --test-reporter=spec $(ARGS) $(STORIES)

test-slow: $(STAMP) ## run the slow suites: crashes, load, packaging, client generators
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow $(TESTS) $(ARGS)

# Two files at a time: one of them mostly waits for the pings of idle sockets. DEPLOY_SECONDS also covers the installation
# of the tools on a bare machine.
test-deploy: $(STAMP) ## check the files of deploy/ with real tools; what cannot be checked here is skipped, and named
	@SECONDS=0; .ci/deploy-tools .deploy; status=0; \
		$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m deploy tests/deploy $(ARGS) || status=$$?; \
		echo "make: test-deploy took $$SECONDS of at most $(DEPLOY_SECONDS) seconds" >&2; \
		if [ $$SECONDS -gt $(DEPLOY_SECONDS) ]; then echo 'make: test-deploy took too long' >&2; exit 1; fi; exit $$status

lint: $(STAMP) ## check style, language, import contracts, sizes of files and functions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_structure.py tests/unit/test_language.py

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

bench: $(STAMP) ## run the benchmarks of tests/bench (ARGS=fanout for one)
	$(BIN)/python -m tests.bench $(ARGS)

chaos: $(STAMP) ## check histories of clusters under failures (ARGS=mutants, ARGS=sound)
	$(BIN)/python -m tests.chaos $(ARGS)

docs: $(STAMP) ## build the documentation into site/ (strict: a dead link or anchor is an error)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'make: site/index.html' >&2

hooks: ## turn on the git hooks of this repository (commit subjects)
	git config core.hooksPath .githooks

fmt: $(STAMP) ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: .audit/.installed ## look for known vulnerabilities, secrets and weak workflows; write .audit/sbom.json; STRICT=1 fails for an unchecked step
	.ci/audit .audit/bin .audit

.audit/.installed: requirements-audit.lock | $(STAMP)
	@$(BIN)/python -m venv --clear .audit
	@.audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-audit.lock
	@touch $@

# The server lock is the subset of requirements.lock that the services need, at the same versions.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11

lock: $(STAMP) ## resolve the lock files again, without hosts in them
	$(COMPILE) --all-extras --group dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra server --constraint requirements.lock --output-file requirements-server.lock pyproject.toml
	$(COMPILE) --group build --constraint requirements.lock --output-file requirements-build.lock
	$(COMPILE) --output-file requirements-audit.lock requirements-audit.in
	$(COMPILE) --output-file requirements-deploy.lock requirements-deploy.in
