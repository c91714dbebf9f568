"""Decides which node gets which work. It knows neither HTTP nor models."""
