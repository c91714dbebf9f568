"""A sender in a process of its own, to be killed: `python outbox_worker.py <rpc url> <deployment> <database url> <key> <seconds>`.

The key is one of the local chain's published ones, the seconds those after which a transaction is replaced. Runs rounds until no intent is live. `PARALLELIX_CRASH_POINTS` names the folder of the points at which it dies.
"""

import os
import sys
import time
from pathlib import Path

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.crypto.keys import Signer
from offchain.db.database import open_database
from offchain.errors import TransientError
from offchain.outbox import Sender, SenderSettings, intents
from offchain.outbox.wire import Wire
from offchain.runtime.crash_points import from_environment


def main(rpc_url: str, deployment: str, database_url: str, key: str, replace_after: str) -> None:
    """Send until nothing is live, at most a minute."""
    database = open_database(database_url)
    chain = ChainReader(Rpc(rpc_url), Deployment.load(Path(deployment)))
    settings = SenderSettings(max_fee_wei=10**12, replace_after_seconds=int(replace_after), lease_ms=500)
    signer = Signer.from_key(bytes.fromhex(key))
    sender = Sender(
        database,
        Wire(chain),
        signer,
        settings,
        reached=from_environment(os.environ, chain.deployment.chain_id),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            sender.run_once()
        except TransientError as error:
            print(error, file=sys.stderr)
        with database.read() as session:
            if intents.oldest_unfinished(session) is None:
                return
        time.sleep(0.02)
    sys.exit("some intents are still live after a minute")


if __name__ == "__main__":
    main(*sys.argv[1:])
