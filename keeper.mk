# Targets of the keeper; the Makefile includes this file.

.PHONY: bench-keeper
bench-keeper: ## Measure the keeper: 1,000,000 logs, an epoch of 100,000 nodes, requests, killed workers
	@tools/setup.sh python node contracts
	@python -m bench.keeper.epoch --out bench/results/keeper.json
	@python -m bench.keeper.running --out bench/results/keeper.json

.PHONY: redis
redis: ## Install Debian's Redis, so that a keeper is also tested on it
	@if command -v redis-server >/dev/null; then exit 0; fi; \
	if [[ $$(id -u) != 0 ]]; then \
		echo "Redis is not installed: its test will be skipped; run 'make redis' as root" >&2; exit 0; fi; \
	mkdir -p .build/logs; \
	{ apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
		apt-get install --yes --no-install-recommends redis-server; } >.build/logs/redis.log 2>&1 || \
		echo "Redis could not be installed: its test will be skipped; see .build/logs/redis.log" >&2

test: redis
