"""The keeper: services that index, probe, attest, settle and fulfil, and the processes that run them (Celery, API)."""
