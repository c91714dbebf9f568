"""What a bench measured, kept in a file of results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def load(path: Path) -> dict[str, Any]:
    """The figures in a file of results; none when there is no such file."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def merge(path: Path, figures: Mapping[str, Any]) -> None:
    """Write figures into a file of results; those of its figures that have other names stay."""
    write(path, load(path) | dict(figures))


def write(path: Path, figures: Mapping[str, Any]) -> None:
    """Write a file of results anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
