"""Names of our own HTTP headers. In lower case, as `transport` gives them; those of webhooks as their users see them in the docs.

| header | from -> to | value |
| --- | --- | --- |
| request id, ticket | gateway -> node | 0x-hex, see `tickets.TicketSigner` |
| cache salt | gateway -> node | text for vLLM's prefix cache; beside the body, so that the receipt binds the caller's own bytes |
| receipt | node -> gateway -> caller | base64url, see `receipts.encode_header` |
| proof | node -> gateway | hex, see `pair_mac.answer_mac` |
| heartbeat | node -> gateway, keeper | 0x-hex of uint64 sentAtMs and a 65-byte signature |
| manifest hash | node -> anybody | 0x-hex, the node's `capabilityHash` on chain |
| node | caller -> gateway | id of the one node that may answer |
| node | gateway -> caller | id of the node that answered |
| webhook event, delivery, signature | dashboard -> operator's endpoint | see `webapp.notify.senders` |
"""

from typing import Final

REQUEST_ID: Final = "x-parallelix-request-id"
TICKET: Final = "x-parallelix-ticket"
CACHE_SALT: Final = "x-parallelix-cache-salt"
RECEIPT: Final = "x-parallelix-receipt"
PROOF: Final = "x-parallelix-proof"
HEARTBEAT: Final = "x-parallelix-heartbeat"
MANIFEST_HASH: Final = "x-parallelix-manifest-hash"
NODE: Final = "x-parallelix-node"
WEBHOOK_EVENT: Final = "X-Parallelix-Event"
WEBHOOK_DELIVERY: Final = "X-Parallelix-Delivery"
WEBHOOK_SIGNATURE: Final = "X-Parallelix-Signature"
