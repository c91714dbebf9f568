"""Settings of each process: a TOML file, overridden by `PARALLELIX_*` in the environment. Nothing is read at import."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from offchain.errors import UserError

_PREFIX = "PARALLELIX_"
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def _is_redis_url(url: str) -> str:
    # anything else is taken by Celery for the name of an AMQP host, which it asks for ever
    if not url.startswith(_REDIS_SCHEMES):
        raise PydanticCustomError("redis_url", "write redis://host:6379/0, rediss://... or unix:///path")
    return url


Port = Annotated[int, Field(ge=0, le=65_535)]
"""A TCP port; 0 takes a free one."""
RedisUrl = Annotated[str, AfterValidator(_is_redis_url)]
"""URL of a Redis or Valkey."""


class ProcessSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    data_dir: Path
    """Folder of this process alone: database, logs, embedded services."""
    ready_file: Path | None = None
    """Written atomically as {"url", "pid"} once traffic is accepted."""
    log_level: str = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings  # the environment wins over the file

    @classmethod
    def load(cls, path: Path) -> Self:
        """Settings from a TOML file; relative paths in it are relative to the working directory.

        Raises:
            UserError: the file is missing, is not TOML, or it or the environment has a wrong, missing or unknown field.
        """
        try:
            fields = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"settings file {path} does not exist; name one with --config") from None
        except (OSError, ValueError) as error:  # no TOML, or no UTF-8
            raise UserError(f"settings file {path} cannot be read: {error}") from None
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UserError("; ".join(_words(path, fault) for fault in error.errors())) from None
        except SettingsError as error:
            raise UserError(f"PARALLELIX_* in the environment: {error}; write lists as JSON") from None

    def make_data_dir(self) -> None:
        """Make the folder of this process. Raises UserError when it cannot be made."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"data_dir {self.data_dir} cannot be made: {error.strerror}; name another"
            ) from None


def _words(path: Path, fault: ErrorDetails) -> str:
    """A wrong field in words: which, where it came from, and what is wrong."""
    field = ".".join(str(part) for part in fault["loc"])
    variable = f"{_PREFIX}{field.upper()}"
    where = f"{variable} in the environment" if variable in os.environ else f"settings file {path}"
    if fault["type"] == "missing":
        return f"{where}: {field} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{where}: there is no setting {field}"
    return f"{where}: {field}: {fault['msg']}" if field else f"{where}: {fault['msg']}"


class ChainSettings(ProcessSettings):
    rpc_url: str
    deployment: Path
    """deployments/<chain_id>.json of the network."""
    confirmations: int = Field(default=0, ge=0)
    """Depth that counts as final; 0 means the chain's own `finalized` tag."""
