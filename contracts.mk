# Contract targets; the Makefile includes this file.
PROFILE ?= full

.PHONY: audit
audit: ## Run everything an auditor would; PROFILE=quick ends within ten minutes
	@tools/setup.sh python node
	@python -m tools.audit.run --profile $(PROFILE)

.PHONY: bench-gas
bench-gas: ## Measure the gas of every operation into bench/results/gas.json
	@tools/setup.sh python node
	@GAS_RESULTS=$(CURDIR)/bench/results/gas.json python -m pytest -q --no-header bench/contracts/test_gas.py -p tests.support.services.ape_chain \
		--network ethereum:local:foundry
