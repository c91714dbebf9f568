# Targets of the chain side (index, outbox, database); the Makefile includes this file.

.PHONY: postgresql
postgresql: ## Install Debian's PostgreSQL, so that the database tests also run on it
	@if compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null; then exit 0; fi; \
	if [[ $$(id -u) != 0 ]]; then \
		echo "PostgreSQL is not installed: its tests will be skipped; run 'make postgresql' as root" >&2; exit 0; fi; \
	mkdir -p .build/logs /etc/postgresql-common/createcluster.d; \
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/parallelix.conf; \
	{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends postgresql; } \
		>.build/logs/postgresql.log 2>&1 || \
		echo "PostgreSQL could not be installed: its tests will be skipped; see .build/logs/postgresql.log" >&2

test: postgresql

.PHONY: bench-backfill
bench-backfill: ## Measure how fast the index reads a million logs
	@tools/setup.sh python node
	@python -m bench.keeper.backfill --out bench/results/keeper.json

bench-keeper: bench-backfill
