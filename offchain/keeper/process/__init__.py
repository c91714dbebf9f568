"""The keeper's processes: supervisor, broker, Celery application and tasks, HTTP API, health."""
