# Contract targets; the Makefile includes this file.
PROFILE ?= full

.PHONY: audit
audit: ## Run everything an auditor would; PROFILE=quick ends within ten minutes
	@tools/setup.sh python node
	@python tests/audit/run.py --profile $(PROFILE)

.PHONY: bench-gas
bench-gas: ## Measure the gas of every operation into bench/results/gas.json
	@tools/setup.sh python node
	@GAS_RESULTS=$(CURDIR)/bench/results/gas.json python -m pytest -q --no-header tests/bench/test_bench_gas.py \
		--network ethereum:local:foundry
