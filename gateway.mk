# Targets of the gateway; the Makefile includes this file.

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
bench-gateway: $(BENCH_STAMP) ## Measure the gateway beside its rivals (BENCH_ARGS: see --help)
	@tools/setup.sh python node contracts compiled vllm models
	@python -m bench.gateway.run $(BENCH_ARGS)
