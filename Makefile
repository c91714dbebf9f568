# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# bash reads this file before each recipe line: one place holds the environment, for make and for people.
export BASH_ENV := $(CURDIR)/tools/env.sh

PYTHON_CODE := $(wildcard offchain webapp scripts)
SOLIDITY := $(wildcard contracts)

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

.PHONY: setup
setup: ## Install everything into this folder (a few minutes once, then instant)
	@tools/setup.sh

.PHONY: demo
demo: setup ## Run a whole network on this machine and open its dashboard
	@exec parallelix demo up $(ARGS)

.PHONY: demo-check
demo-check: setup ## Run the same network unattended and prove what it did
	@exec parallelix demo check $(ARGS)

.PHONY: test
test: setup ## Run every test, fast ones first
	@tools/setup.sh chromium
	@tools/test.sh unit networks+contracts+fork+audit integration e2e

.PHONY: test-fast
test-fast: ## Run the unit tests only
	@tools/setup.sh python
	@tools/test.sh unit

.PHONY: lint
lint: ## Check style, types, import rules and Solidity
	@tools/setup.sh python node
	ruff check
	ruff format --check
	mypy $(PYTHON_CODE)
	lint-imports --cache-dir .cache/import-linter
ifneq ($(SOLIDITY),)
	solhint --disc --noPoster --max-warnings 0 'contracts/**/*.sol'
endif
	prettier --check --log-level warn $(PRETTIER_FILES)

.PHONY: format
format: ## Rewrite the sources in the project's style
	@tools/setup.sh python node
	ruff check --fix-only --quiet
	ruff format
	prettier --write --log-level warn $(PRETTIER_FILES)

PRETTIER_FILES := package.json .prettierrc .solhint.json $(wildcard webapp/assets) \
	$(if $(SOLIDITY),'contracts/**/*.sol')

.PHONY: web-assets
web-assets: ## Bundle the dashboard's script and styles
	@tools/setup.sh node assets

.PHONY: lock
lock: ## Resolve all dependencies again, within pyproject.toml and package.json
	@tools/setup.sh python
	@tools/lock.sh

.PHONY: clean
clean: ## Remove everything that setup, tests and runs left in this folder
	@rm -rf .venv .vllm .models .build .run .cache node_modules webapp/static/dist contracts/.cache \
		deployments/31337.json deployments/1337.json ./*.egg-info .hypothesis .pytest_cache .mypy_cache \
		.ruff_cache .import_linter_cache .coverage
	@find offchain webapp scripts tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

include $(sort $(wildcard *.mk))
