"""The node as a hardened systemd service: it may do little besides its work."""

import getpass
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from offchain.errors import UserError
from offchain.node.settings import NodeSettings

_UNIT = """\
[Unit]
Description=ParalleliX node ({name})
Documentation=https://docs.vllm.ai
After=network-online.target time-sync.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=simple
ExecStart={python} -m offchain node start --config {config} --plain
Environment=PYTHONPATH={root}
WorkingDirectory={root}
{user}# Checks the settings, drains and starts anew in the same process.
ExecReload=/bin/kill -USR1 $MAINPID
Restart=always
RestartSec=2
# The agent drains: running answers end before it does.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={stop_seconds}

# What it may not do.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectProc=invisible
PrivateMounts=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
UMask=0077
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
{devices}
LimitNOFILE=65536

[Install]
WantedBy={target}
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit file. `enable` is the command that enables and starts the unit."""

    path: Path
    text: str
    enable: str


def unit(settings: NodeSettings, config: Path, *, system: bool) -> Unit:
    """The unit of a node.

    Args:
        system: for the whole machine (needs root to write), or for this user's own manager.
    """
    name = f"parallelix-node-{config.stem}"
    data = settings.data_dir.resolve()
    writable = {data}
    if settings.ready_file is not None:
        writable.add(settings.ready_file.resolve().parent)
    root = Path(__file__).resolve().parents[3]
    gpu = settings.backend != "cpu"
    text = _UNIT.format(
        name=config.stem,
        python=sys.executable,
        config=config.resolve(),
        root=root,
        user=f"User={_owner(config)}\n" if system else "",
        # After the drain the model servers need time to end; systemd must not kill them first.
        stop_seconds=int(settings.drain_seconds) + 30,
        writable=" ".join(str(path) for path in sorted(writable)),
        # GPU drivers need their device nodes, which groups of this machine may open.
        devices="PrivateDevices=no" if gpu else "PrivateDevices=yes\nPrivateUsers=yes",
        target="multi-user.target" if system else "default.target",
    )
    base = Path("/etc/systemd/system") if system else Path.home() / ".config/systemd/user"
    flag = "" if system else "--user "
    return Unit(base / f"{name}.service", text, f"systemctl {flag}enable --now {name}")


def _owner(config: Path) -> str:
    """The owner of the settings file: under `sudo` that is still the operator."""
    try:
        return config.owner()
    except (OSError, KeyError):
        return getpass.getuser()


def install(made: Unit) -> None:
    """Write the unit file. Raises UserError."""
    try:
        made.path.parent.mkdir(parents=True, exist_ok=True)
        made.path.write_text(made.text)
    except OSError as error:
        hint = "; run as root, or without --system" if os.geteuid() != 0 else ""
        raise UserError(f"{made.path} cannot be written: {error.strerror}{hint}") from None
