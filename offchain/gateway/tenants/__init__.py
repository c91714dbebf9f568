"""Tenants: their API keys, their limits, and the authentication of a request."""
