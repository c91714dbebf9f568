"""The OpenAI-compatible front of the dispatch core."""
