# Targets of the dashboard; the Makefile includes this file.

.PHONY: screenshots
screenshots: web-assets ## Take the dashboard's screenshots again, into docs/screenshots
	@tools/setup.sh python chromium
	@python -m tests.support.webapp.screenshots docs/screenshots

.PHONY: bench-dashboard
bench-dashboard: web-assets ## Measure the dashboard over 10,000 nodes and 365 epochs
	@tools/setup.sh python chromium
	@python -m bench.dashboard bench/results/dashboard.json
