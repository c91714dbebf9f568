"""The entry point for Celery's own command.

::

    PARALLELIX_KEEPER_CONFIG=keeper.toml celery -A offchain.celery_app worker -Q uptime.probe

Nothing happens at import; the application is made when Celery asks this module for `app`.
"""

import os
from functools import cache
from pathlib import Path

from celery import Celery

from offchain.chain.deployment import Deployment
from offchain.errors import UserError
from offchain.keeper.operator.keys import load_signer
from offchain.keeper.process.broker import locate
from offchain.keeper.process.celery import make_app
from offchain.keeper.process.tasks import register
from offchain.keeper.process.wiring import KeeperWiring
from offchain.keeper.settings import KeeperSettings

CONFIG_VARIABLE = "PARALLELIX_KEEPER_CONFIG"


@cache
def _application() -> Celery:
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        raise UserError(f"set {CONFIG_VARIABLE} to the keeper's TOML file")
    settings = KeeperSettings.load(Path(path))
    broker = locate(settings)
    app = make_app(broker.url)

    @cache
    def wiring() -> KeeperWiring:
        deployment = Deployment.load(settings.deployment)
        return KeeperWiring(settings, deployment, load_signer(settings), broker.url)

    register(app, wiring)
    return app


# Of the module (PEP 562): importing it reads no settings and opens nothing.
def __getattr__(name: str) -> Celery:
    if name in ("app", "celery"):
        return _application()
    raise AttributeError(name)
