"""Benches: `make` lists them; each writes its figures as JSON into bench/results/, and `--smoke` is its smallest form."""
