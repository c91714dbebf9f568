"""HTTP/1.1 over asyncio: the server (`server`), the client's connection, and a pool of connections for each host (`pool`)."""
