"""The gateway: OpenAI-compatible HTTP API, tenants and quotas, and records of every request. Entry point: `main.run`."""
