"""A blueprint per page: parse, ask a service, render."""
