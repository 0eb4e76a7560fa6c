# SPDX-License-Identifier: AGPL-3.0-or-later
#
# Everything below needs Python 3.10 or newer and pip's package index, and nothing else: no root, no
# containers, no packages of the system. What it makes is git-ignored, in the checkout and nowhere else.
# `make test-js` and `make test-page` need npm's registry too.

# The Python that the environments are made with.
PYTHON ?= python3
# Which Synapse: a file tests/requirements/synapse-….txt. The newest that is supported, by default.
SYNAPSE ?= 1.163
# More arguments, for what is run: make test ARGS="-k pushers -x"
ARGS ?=

OLDEST := 1.120
NEWEST := 1.163
VENV := .venv$(if $(filter-out $(NEWEST),$(SYNAPSE)),-$(SYNAPSE))
REQUIREMENTS := tests/requirements/synapse-$(SYNAPSE).txt
BIN := $(VENV)/bin

# Sets up $(VENV) with the dependency groups that are its argument, unless it is as it should be.
venv = @$(PYTHON) scripts/venv.py $(VENV) $(REQUIREMENTS) $(1)

.PHONY: help
help:  ## Say what there is to make (this)
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) \
	    | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24
	@echo
	@echo '  SYNAPSE=$(OLDEST)       another Synapse ($(patsubst tests/requirements/synapse-%.txt,%,$(sort $(wildcard tests/requirements/synapse-*.txt))))'
	@echo '  PYTHON=python3.12   another Python'
	@echo '  ARGS="-k pushers"   more arguments for what is run'

# The groups of pyproject.toml that `make environment` installs.
TOOLS ?= test,dev,docs,js
.PHONY: environment
environment: python  ## Set up the environment with all that the others here need, at once
	$(call venv,$(TOOLS))

.PHONY: test
test: python  ## Run the tests
	$(call venv,test)
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore $(FAULTS) --ignore $(SOAK) --ignore $(INSTALL) --ignore $(PAGE) $(ARGS)

# Minutes long, since what is killed has to come back, with and without the module; and the soak's
# tests run whole clusters.
FAULTS := tests/cluster/test_faults.py
SOAK := tests/soak
.PHONY: test-faults
test-faults: python  ## Kill each process of a cluster under load, and count the pushes
	$(call venv,test)
	$(BIN)/python -m pytest $(FAULTS) $(SOAK) $(ARGS)

# Builds the packages, and installs them into an environment that it makes: minutes, and pip's index.
INSTALL := tests/install
.PHONY: test-install
test-install: python  ## Build the packages, and install them as admins do
	$(call venv,test)
	$(BIN)/python -m pytest $(INSTALL) $(ARGS)

.PHONY: test-oldest
test-oldest:  ## Run the tests on the oldest Synapse that is supported
	@$(MAKE) --no-print-directory test SYNAPSE=$(OLDEST) ARGS='$(ARGS)'

# An hour or two the first time. It keeps what it has done: stop it, and call it again to go on.
.PHONY: versions
versions: python  ## Test every minor release of Synapse in short, and write the table of them
	@$(PYTHON) scripts/versions.py $(ARGS)

JS := tests/clients/js
NPM_CI = $(BIN)/npm ci --cache .cache/npm --ignore-scripts --no-audit --no-fund --loglevel error
.PHONY: npm-ping
npm-ping: python
	$(call venv,test$(comma)js)
	@$(BIN)/npm ping --cache .cache/npm --loglevel error

.PHONY: test-js
test-js: python  ## Run the tests with matrix-js-sdk; Node comes from pip
	$(call venv,test$(comma)js)
	@$(NPM_CI) --prefix $(JS)
	$(BIN)/python -m pytest --deployments sqlite tests/clients -k js $(ARGS)

# A browser: one on the PATH, else npm's. Without npm's registry, what needs something of it is skipped.
PAGE := tests/page
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome
.PHONY: test-page
test-page: python  ## Run the tests of the page in a real browser; Node comes from pip
	$(call venv,test$(comma)js)
	@$(NPM_CI) --prefix $(PAGE)/js || echo "  npm's registry cannot be reached: what needs it is skipped"
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit; done; \
	    echo '  no Chromium on the PATH: getting one from npm'; \
	    $(NPM_CI) --prefix $(PAGE)/js/chromium || echo '  there is none: the tests are skipped'
	$(BIN)/python -m pytest -n 2 --dist loadfile --deployments sqlite $(PAGE) $(ARGS)

FUZZ_SECONDS ?= 600
.PHONY: fuzz
fuzz: python  ## Try new inputs, for FUZZ_SECONDS in each of the fuzz tests
	$(call venv,test)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -n 0 --deployments sqlite tests/fuzz $(ARGS)

SOAK_SECONDS ?= 1200
.PHONY: soak
soak: python  ## Change everything under load, for SOAK_SECONDS, on a cluster, and watch its memory
	$(call venv,test)
	@SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m tests.soak $(ARGS)

.PHONY: bench
bench: python  ## Measure what the module costs, against a vanilla Synapse
	$(call venv,test)
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: synapse-suite
synapse-suite: python  ## Run Synapse's own push tests, without and with the module
	$(call venv,test)
	$(BIN)/python -m tests.synapse_suite $(ARGS)

.PHONY: demo
demo: python  ## Show the module at work on a throwaway server
	$(call venv)
	@$(BIN)/python -m demo $(ARGS)

.PHONY: lint
lint: python  ## Check style and formatting
	$(call venv,dev)
	$(BIN)/ruff check $(ARGS) .
	$(BIN)/ruff format --check .

.PHONY: format
format: python  ## Put style and formatting right, where that can be done by itself
	$(call venv,dev)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: python  ## Check the types
	$(call venv,test$(comma)dev)
	$(BIN)/mypy $(ARGS)

# The theme says at each build that it is maintained until May 2027 only, which we know.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs
.PHONY: docs
docs: python  ## Build the documentation site, into site/
	$(call venv,docs)
	$(MKDOCS) build --clean $(ARGS)
	@echo 'Built: site/index.html'

.PHONY: docs-serve
docs-serve: python  ## Serve the documentation site on loopback, and follow changes
	$(call venv,docs)
	$(MKDOCS) serve --dev-addr 127.0.0.1:8000 $(ARGS)

comma := ,

.PHONY: check
check: lint types test  ## lint, types and test

.PHONY: clean
clean:  ## Remove all that make and the tools have made
	rm -rf .venv .venv-* .tox .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site \
	    $(JS)/node_modules $(PAGE)/js/node_modules $(PAGE)/js/chromium/node_modules
	find synapse_msc3881 demo tests scripts -name __pycache__ -prune -exec rm -rf {} +

# A message for a human when there is no Python, or an old one.
.PHONY: python
python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	    echo 'There is no $(PYTHON). Install Python 3.10 or newer, or name one: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "Python 3.10 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 …" >&2; exit 1; }
