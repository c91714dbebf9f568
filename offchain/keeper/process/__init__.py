"""The keeper's processes: supervisor, broker, Celery app and tasks, HTTP API, health."""
