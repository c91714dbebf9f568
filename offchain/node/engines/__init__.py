"""Model servers: how they are started, watched and restarted, and the pool that requests choose from."""
