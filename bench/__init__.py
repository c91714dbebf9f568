"""Benches: each is a make target that writes JSON to bench/results/; run one as `python -m bench.gateway.run`."""
