"""The keeper: services that index, probe, attest, close and fulfil, and the processes around them (Celery, API)."""
