"""Settings of each process: a TOML file, overridden by `PARALLELIX_*` in the environment. Nothing is read at import."""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from offchain.errors import UserError


class ProcessSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PARALLELIX_", extra="forbid", frozen=True)

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
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            where = f"{field}: " if field else ""
            raise UserError(f"settings file {path}: {where}{first['msg']}") from None
        except SettingsError as error:
            raise UserError(f"PARALLELIX_* in the environment: {error}; write lists as JSON") from None


class ChainSettings(ProcessSettings):
    rpc_url: str
    deployment: Path
    """deployments/<chain_id>.json of the network."""
    confirmations: int = Field(default=0, ge=0)
    """Depth that counts as final; 0 means the chain's own `finalized` tag."""
