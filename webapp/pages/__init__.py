"""A blueprint per page: parse the request, build the view, render it."""
