"""HTTP/1.1 over asyncio: the server, the client connection, and a pool of connections for each host."""
