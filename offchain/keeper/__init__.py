"""The keeper: services that index the chain, probe nodes, attest and settle epochs, and fulfil requests, and the processes that run them (Celery, API)."""
