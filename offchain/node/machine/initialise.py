"""`node init`: a settings file and a node key for this machine. Files that exist are kept."""

from dataclasses import dataclass
from pathlib import Path

import tomli_w

from offchain.crypto.keys import Signer, create_keystore
from offchain.errors import UserError
from offchain.node.machine.hardware import Hardware
from offchain.node.owner.node_key import node_key_hash
from offchain.runtime.files import write_atomically


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator asks for; the other settings follow from the machine.

    Attributes:
        model_path: folder of the weights, or None with `engine_url`.
    """

    folder: Path
    rpc_url: str
    deployment: Path
    heartbeat_receivers: tuple[str, ...]
    region: str
    served_model: str
    model_path: Path | None
    engine_url: str | None
    model_revision: str | None
    vllm_command: tuple[str, ...]
    listen: str | None = None
    """`HOST:PORT` to serve inbound at. None: the agent dials out, and no port has to be opened."""
    public_url: str | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    keeper_url: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What `init` made or found. `created` is False when the settings file was there already."""

    config: Path
    keystore: Path
    node_key: str
    node_key_hash: str
    created: bool


def initialise(wanted: Wanted, machine: Hardware) -> Made:
    """Write `node.toml`, `node.key.json` and its password into a folder (0700). Safe to run again: files that exist are kept.

    Raises:
        UserError: no model is named, or the folder cannot be written.
    """
    folder = wanted.folder.resolve()
    config, keystore, password = folder / "node.toml", folder / "node.key.json", folder / "node.password"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}; name another with --folder") from None
    created = not config.exists()
    if created:
        if wanted.model_path is None and wanted.engine_url is None:
            raise UserError(
                "no model is named; give --model-path FOLDER, or --engine-url URL of a running server"
            )
        if not keystore.exists():
            create_keystore(keystore, password)
        fields: dict[str, object] = {
            "data_dir": str(folder / "data"),
            "ready_file": str(folder / "data/ready.json"),
            "rpc_url": wanted.rpc_url,
            "deployment": str(wanted.deployment.resolve()),
            "keystore": str(keystore),
            "password_file": str(password),
            **_listening(wanted),
            "heartbeat_receivers": list(wanted.heartbeat_receivers),
            "region": wanted.region,
            "tier": int(machine.tier),
            "slots": 4 if machine.backend == "cpu" else 32 * max(1, len(machine.accelerators)),
            "served_model": wanted.served_model,
            "backend": machine.backend,
            "vllm_command": list(wanted.vllm_command),
        }
        fields |= _given(wanted, "keeper_url", "model_path", "engine_url", "model_revision")
        comment = "# Every field: offchain/node/settings.py, NodeSettings; docs/operators.md\n"
        # Last of the three: a settings file that exists means that its key does, too.
        write_atomically(config, comment + tomli_w.dumps(fields))
    signer = Signer.load(keystore, password)
    return Made(config, keystore, signer.address, "0x" + node_key_hash(signer).hex(), created)


def _listening(wanted: Wanted) -> dict[str, object]:
    """The settings that decide how requests come: down connections that the agent opens, or to a port of this machine."""
    if wanted.listen is None:
        return {"dial_out": True, "host": "127.0.0.1", "port": 0}
    host, _, port = wanted.listen.rpartition(":")  # from the right: [::1]:8443
    if not host or not port.isdigit():
        raise UserError(f"--listen {wanted.listen} is no HOST:PORT; write it like 0.0.0.0:8443")
    # An IPv6 address has brackets beside a port (RFC 3986, section 3.2.2), and none when it is bound.
    found: dict[str, object] = {"dial_out": False, "host": host.strip("[]"), "port": int(port)}
    return found | _given(wanted, "public_url", "tls_certificate", "tls_key")


def _given(wanted: Wanted, *names: str) -> dict[str, object]:
    """What was asked for of some fields, as TOML holds it; a path as the absolute one."""
    found = {name: getattr(wanted, name) for name in names if getattr(wanted, name) is not None}
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in found.items()}
