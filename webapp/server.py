"""Runs the dashboard under gunicorn: worker processes with threads, a ready file, a clean end on SIGTERM."""

import gc
import json
import os
import threading
from pathlib import Path
from typing import Any

import click
from gunicorn.app.base import BaseApplication

from offchain.runtime.files import write_atomically
from webapp.app import create_app
from webapp.settings import DashboardSettings


class DashboardServer(BaseApplication):
    """gunicorn with our settings and nothing from its command line; `announce` makes the ready line JSON, for programs."""

    def __init__(self, settings: DashboardSettings, announce: bool) -> None:
        self._settings = settings
        self._announce = announce
        self._app = create_app(settings)
        super().__init__()

    def load_config(self) -> None:
        """Translate our settings into gunicorn's."""
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        options: dict[str, Any] = {
            "bind": [f"{host}:{settings.port}"],
            "workers": settings.workers,
            "threads": settings.threads,
            "worker_class": "gthread",
            # A worker that cannot touch its heartbeat file in time is killed; a slow disk would end them all.
            "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108  heartbeats, not data
            # Bounds the silence of a worker's main loop, not a request: its threads may stream for longer.
            "timeout": 60,
            # An open feed would hold up a stop for 55 s; browsers connect again by themselves.
            "graceful_timeout": 5,
            "keepalive": 15,
            "limit_request_line": 4_094,
            "limit_request_fields": 60,
            "proc_name": "parallelix-dashboard",
            "loglevel": "warning" if settings.log_level == "info" else settings.log_level,
            "post_worker_init": self._ready,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The application, which was made before the fork."""
        return self._app

    def _ready(self, worker: Any) -> None:
        # Threads start here, after the fork: those of the parent do not exist in a worker.
        self._app.extensions["notifier"].start(self._settings.notify_seconds)
        # The network page keeps sums of old epochs; computing them now spares the first visitor the wait.
        threading.Thread(target=self._warm, name="warm", daemon=True).start()
        # `age` counts all workers since the start: the first one announces, and its replacement never does.
        if worker.age != 1:
            return
        host, port = worker.sockets[0].sock.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        # The arbiter's pid: whoever stopped a worker would only make gunicorn start another.
        ready = {"url": url, "pid": os.getppid()}
        if self._settings.ready_file is not None:
            write_atomically(self._settings.ready_file, json.dumps(ready))
        click.echo(json.dumps(ready) if self._announce else f"dashboard ready {url}")

    def _warm(self) -> None:
        self._app.test_client().get("/")
        # Objects that live as long as the process leave the collector's sight, so that it never scans them during a page.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
