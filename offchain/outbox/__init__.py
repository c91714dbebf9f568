"""The chain, write side: the one place that sends transactions.

`Outbox.enqueue` puts an intent down in the caller's transaction; `Sender.run_once`, called again and again, makes each
intent happen exactly once, whatever is killed in between.
"""

from offchain.outbox.intents import Outbox
from offchain.outbox.rules import DEFAULT_RULES, RevertRule, RevertVerdict
from offchain.outbox.sender import Round, Sender, SenderSettings

__all__ = ["DEFAULT_RULES", "Outbox", "RevertRule", "RevertVerdict", "Round", "Sender", "SenderSettings"]
