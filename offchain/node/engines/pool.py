"""All model servers of a node, from its settings: started together, ended together."""

import asyncio
import json
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp

from offchain.errors import UserError
from offchain.node.engines.backend import Backend
from offchain.node.engines.model_server import (
    AttachedEngine,
    Engine,
    EngineSpec,
    EngineState,
    SupervisedEngine,
    vllm_arguments,
    vllm_environment,
)
from offchain.node.machine.manifest import Manifest
from offchain.node.settings import ModelSettings, NodeSettings
from offchain.runtime.redaction import endpoint_label

_VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}


class Engines:
    """Use as an async context manager: inside it every server is kept running; leaving it ends them.

    Attributes:
        backends: by model name.
    """

    def __init__(
        self,
        settings: NodeSettings,
        manifest: Manifest,
        session: aiohttp.ClientSession,
        on_change: Callable[[Engine], None],
    ) -> None:
        """Raises UserError when a model names neither folder nor server, `engine_url` is no http(s) URL, or a key file
        cannot be read.
        """
        self._settings = settings
        self._session = session
        self._on_change = on_change
        self._tasks: list[asyncio.Task[None]] = []
        self.backends = {
            served.name: Backend(served, [self._make(model, index) for index in range(model.replicas)])
            for served, model in zip(manifest.models, settings.all_models(), strict=True)
        }

    @property
    def version(self) -> str | None:
        """vLLM's version, from the first server that answered with one."""
        versions = (engine.version for backend in self.backends.values() for engine in backend.engines)
        return next((version for version in versions if version), None)

    async def __aenter__(self) -> Self:
        engines = [engine for backend in self.backends.values() for engine in backend.engines]
        self._tasks = [asyncio.create_task(engine.run()) for engine in engines]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The key in it was of a server that has ended.
        self._settings.engine_access_file.unlink(missing_ok=True)

    async def wait(self) -> None:
        """Return only when a supervisor ends, which is a fault of this program; raises what the supervisor raised."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def raise_if_ended(self) -> None:
        """Raise what a supervisor raised, if one ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    def _make(self, model: ModelSettings, index: int) -> Engine:
        if model.engine_url is not None:
            endpoint_label(model.engine_url, "engine_url")  # raises when it is no URL
            return AttachedEngine(
                model.name, model.engine_url.rstrip("/"), _read_key(model), self._session, self._on_change
            )
        if model.path is None:
            raise UserError(f"model {model.name} names neither a folder nor engine_url; set one of them")
        settings = self._settings
        data = settings.data_dir.resolve()
        environment = vllm_environment(settings.backend, data / "cache")
        if index < len(model.devices) and settings.backend in _VISIBLE:
            environment[_VISIBLE[settings.backend]] = model.devices[index]
        first = model.name == settings.served_model and index == 0
        # `node logs --engine` reads the first server's log under the plain name.
        suffix = "" if first else f"-{model.name.replace('/', '_')}-{index}"
        spec = EngineSpec(
            name=model.name,
            model_path=model.path.resolve(),
            command=tuple(settings.vllm_command),
            arguments=vllm_arguments(
                settings.backend, model.max_model_len, model.kv_cache_bytes, model.extra_vllm_args
            ),
            environment=environment,
            log_file=data / "logs" / f"engine{suffix}.log",
            start_seconds=settings.engine_start_seconds,
        )
        return SupervisedEngine(spec, self._session, self._note_access if first else self._on_change)

    def _note_access(self, engine: Engine) -> None:
        """Write the first server's URL and key to a file (0600), for `node verify --benchmark` of the same user."""
        if engine.state is EngineState.UP:
            # Opened with its mode: written first and restricted later, others could read the key in between.
            handle = os.open(self._settings.engine_access_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump({"url": engine.url, "api_key": engine.api_key}, file)
        self._on_change(engine)


def _read_key(model: ModelSettings) -> str | None:
    if model.engine_api_key_file is None:
        return None
    try:
        return model.engine_api_key_file.read_text().strip()
    except OSError as error:
        raise UserError(
            f"engine_api_key_file {model.engine_api_key_file} cannot be read: {error.strerror}"
        ) from None
