"""A dashboard over real contracts on anvil, with a real index that follows the chain."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offchain.chain.indexer import Indexer
from offchain.chain.reader import ChainReader
from offchain.chain.rpc import Rpc
from offchain.db.database import open_database
from offchain.db.models import Base
from offchain.errors import TransientError
from tests.support.services.contracts import Network
from tests.support.webapp.serving import serving
from webapp import create_app
from webapp.settings import DashboardSettings


class Follower:
    """Runs the index's scan in a thread until closed. A test that holds the lock `still` stops the scan meanwhile."""

    def __init__(self, network: Network, path: Path) -> None:
        self.database = open_database(f"sqlite:///{path}")
        Base.metadata.create_all(self.database.engine)
        self._rpc = Rpc(network.anvil.url)
        self._indexer = Indexer(self.database, ChainReader(self._rpc, network.deployment))
        self._stop = threading.Event()
        self.still = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._indexer.advance()
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            with self.still, suppress(TransientError):
                self._indexer.advance()

    def close(self) -> None:
        """Stop and close everything."""
        self._stop.set()
        self._thread.join()
        self._rpc.close()
        self.database.close()


@contextmanager
def live(network: Network, folder: Path, **settings: object) -> Iterator[tuple[str, Follower]]:
    """URL of the dashboard, and its index."""
    follower = Follower(network, folder / "index.db")
    fields = {
        "data_dir": folder / "dashboard",
        "rpc_url": network.anvil.url,
        "deployment": network.deployment.path,
        "database_url": f"sqlite:///{folder / 'index.db'}",
    }
    app = create_app(DashboardSettings(**{**fields, **settings}))
    try:
        with serving(app) as url:
            yield url, follower
    finally:
        app.extensions["sources"].close()
        app.extensions["store"].close()
        follower.close()
