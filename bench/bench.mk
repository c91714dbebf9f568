##@ Measure
# The Makefile includes this file. What a bench measures goes to bench/results, or to the folder in RESULTS.
# SMOKE=1 asks for the smallest form, whose figures mean nothing: it shows that the bench runs to its end.
RESULTS := bench/results
smoke = $(if $(SMOKE),--smoke)

BENCH_RIVALS := vllm-router==0.1.17 sglang-router==0.3.2 litellm[proxy]==1.106.2
BENCH_STAMP = .build/bench/ready-$(shell printf '%s' '$(BENCH_RIVALS)' | cksum | cut -d' ' -f1)

$(BENCH_STAMP):
	@tools/setup.sh python
	@mkdir -p .build/bench .build/logs
	@for rival in $(BENCH_RIVALS); do \
		name=$${rival%%[=\[]*}; \
		printf 'bench: installing %s into .build/bench/%s\n' "$$rival" "$$name"; \
		$${PYTHON:-python3.11} -m venv ".build/bench/$$name" && \
		".build/bench/$$name/bin/pip" install --quiet --retries 8 --timeout 120 "$$rival" \
			>".build/logs/bench-$$name.log" 2>&1 || \
		{ printf 'bench: %s cannot be installed; check the network (details in .build/logs/bench-%s.log)\n' \
			"$$rival" "$$name" >&2; exit 1; }; \
	done
	@rm -f .build/bench/ready-*
	@touch $@

.PHONY: bench-gateway
bench-gateway: $(if $(SMOKE),,$(BENCH_STAMP)) ## Measure the gateway beside its rivals (BENCH_ARGS: see --help)
	@tools/setup.sh python node contracts compiled vllm models
	@python -m bench.gateway.run --out $(RESULTS)/gateway.json $(smoke) $(BENCH_ARGS)

.PHONY: bench-keeper
bench-keeper: bench-backfill ## Measure the keeper: 1,000,000 logs, an epoch of 100,000 nodes, requests, killed workers
	@tools/setup.sh python node contracts
	@python -m bench.keeper.epoch --out $(RESULTS)/keeper.json $(smoke)
	@python -m bench.keeper.running --out $(RESULTS)/keeper.json $(smoke)

.PHONY: bench-backfill
bench-backfill: ## Measure how fast the index reads a million logs
	@tools/setup.sh python node
	@python -m bench.keeper.backfill --out $(RESULTS)/keeper.json $(smoke)

.PHONY: bench-node
bench-node: ## Measure the node agent (ARGS=--quick for a tenth of it)
	@tools/setup.sh python node contracts vllm models
	@python -m bench.node.run --out $(RESULTS)/node.json $(smoke) $(ARGS)

.PHONY: bench-dashboard
bench-dashboard: web-assets ## Measure the dashboard over 10,000 nodes and 365 epochs
	@tools/services.sh need chromium
	@tools/setup.sh python
	@python -m bench.dashboard --out $(RESULTS)/dashboard.json $(smoke)

.PHONY: bench-gas
bench-gas: ## Measure the gas of every operation of the contracts
	@tools/setup.sh python node
	@GAS_RESULTS=$(abspath $(RESULTS))/gas.json python -m pytest -q --no-header bench/contracts/test_gas.py \
		-p tests.support.services.ape_chain --network ethereum:local:foundry

.PHONY: bench-smoke
bench-smoke: setup ## Run every bench, and every command that CI runs nowhere else, in its smallest form
	@python -m bench.smoke
