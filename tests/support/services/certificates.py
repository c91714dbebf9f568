"""Self-signed certificates, as an operator makes them (docs/operators.md)."""

import subprocess
from pathlib import Path


def self_signed(folder: Path, name: str = "node") -> tuple[Path, Path]:
    """A certificate and its key, replacing those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-subj", "/CN=parallelix-node", "-keyout", str(key), "-out", str(certificate),
        ],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    key.chmod(0o600)
    return certificate, key
