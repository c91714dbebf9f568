"""Who may ask and how much: API keys, tenants, and the check of a key."""
