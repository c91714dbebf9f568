# Every command of the project. `make` alone lists them; bench/bench.mk holds those that measure.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# bash reads this file before each recipe line: one place holds the environment, for make and for people.
export BASH_ENV := $(CURDIR)/tools/env.sh

PRETTIER_FILES := package.json .prettierrc .solhint.json webapp/assets 'contracts/**/*.sol'

.PHONY: help
help: ## List the commands
	@awk 'sub(/^##@ /, "") { printf "%s%s\n", gap, $$0; gap = "\n" } \
		/^[a-z-]+:.*## / { name = $$0; sub(/:.*/, "", name); sub(/.*## /, ""); printf "  %-17s%s\n", name, $$0 }' \
		$(MAKEFILE_LIST)

##@ Set up and run
.PHONY: setup
setup: ## Install everything into this folder (a few minutes once, then instant)
	@tools/setup.sh

.PHONY: services
services: ## Install PostgreSQL, Redis and Chromium, system-wide, for the tests that need them (as root)
	@tools/services.sh install

.PHONY: demo
demo: setup ## Run a whole network on this machine and open its dashboard
	@exec parallelix demo up $(ARGS)

.PHONY: demo-check
demo-check: setup ## Run the same network unattended and prove what it did
	@exec parallelix demo check $(ARGS)

##@ Test
.PHONY: test-one
test-one: ## Run a test, a file or a folder: T=tests/unit/keeper/test_prober.py::test_assess_reply__flawless_answer__is_accepted
	$(if $(T),,$(error name a test, for example: make test-one T=tests/unit/keeper/test_prober.py))
	@tools/test.sh one '$(T)'

.PHONY: test-fast
test-fast: ## Run the unit tests only
	@tools/setup.sh python
	@tools/test.sh unit

.PHONY: test
test: setup ## Run every test, fast ones first
	@tools/services.sh missing
	@tools/test.sh unit networks+contracts+fork+audit integration e2e
	@tools/services.sh missing

.PHONY: audit
audit: ## Run what an auditor of the contracts would; PROFILE=quick ends within ten minutes
	@tools/setup.sh python node
	@python -m tools.audit.run --profile $(or $(PROFILE),full)

##@ Style
.PHONY: lint
lint: ## Check style, types, import rules, structure and Solidity
	@tools/setup.sh python node
	ruff check
	ruff format --check
	mypy offchain webapp scripts
	lint-imports --cache-dir .cache/import-linter
	python -m tools.lint.structure
	solhint --disc --noPoster --max-warnings 0 'contracts/**/*.sol'
	prettier --check --log-level warn $(PRETTIER_FILES)

.PHONY: format
format: ## Rewrite the sources in the project's style
	@tools/setup.sh python node
	ruff check --fix-only --quiet
	ruff format
	prettier --write --log-level warn $(PRETTIER_FILES)

##@ Make again
.PHONY: web-assets
web-assets: ## Bundle the dashboard's script and styles
	@tools/setup.sh node assets

.PHONY: screenshots
screenshots: web-assets ## Take the dashboard's screenshots again, into docs/screenshots (or OUT=folder)
	@tools/services.sh need chromium
	@tools/setup.sh python
	@python -m tests.support.webapp.screenshots $(or $(OUT),docs/screenshots) $(if $(SMOKE),--smoke)

.PHONY: pictures
pictures: ## Draw docs/pictures again, from the code's own imports and queues
	@tools/setup.sh python
	@python -m tools.docs.draw

.PHONY: lock
lock: ## Resolve all dependencies again, within pyproject.toml and package.json (ARGS=--check only compares)
	@tools/setup.sh python
	@tools/lock.sh $(ARGS)

.PHONY: clean
clean: ## Remove everything that setup, tests and runs left in this folder
	@rm -rf .venv .vllm .models .build .run .cache node_modules webapp/static/dist contracts/.cache \
		deployments/31337.json deployments/1337.json ./*.egg-info .hypothesis .pytest_cache .mypy_cache \
		.ruff_cache .import_linter_cache .coverage
	@find offchain webapp scripts tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

include bench/bench.mk
