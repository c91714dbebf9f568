"""The HTTP endpoints that requesters call, and their OpenAPI document."""
