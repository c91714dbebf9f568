# Targets of the node. The Makefile includes this file.

.PHONY: bench-node
bench-node: ## Measure the node agent; writes bench/results/node.json (ARGS=--quick for a tenth of it)
	@tools/setup.sh python node vllm models
	python -m bench.node.run $(ARGS)
