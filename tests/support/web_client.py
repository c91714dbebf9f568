"""HTTP as tests speak it: one client for all requests, so that none of them loads the certificate authorities first.

That takes 20 ms of CPU, which `httpx.get` spends each time: a test that polls would keep a core busy, and time itself.
"""

import httpx

HTTP = httpx.Client(
    trust_env=False,
    timeout=30,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),  # servers here are killed
)
