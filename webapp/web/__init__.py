"""How a page is rendered: templates, JSON views, errors, static files, charts, money in words."""
