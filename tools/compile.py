#!/usr/bin/env python
"""Compiles the gateway's hot path to native code (offchain/runtime/native_code.py), unless this was done for these sources."""

import fcntl
import os
import shutil
import sys
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup  # type: ignore[import-untyped]

from offchain.runtime.native_code import LIBRARY, MODULES, ROOT, folder, source_of


def main() -> None:
    made = folder()
    os.chdir(ROOT)
    made.parent.mkdir(parents=True, exist_ok=True)
    with (made.parent / ".lock").open("w") as lock:  # two at once would clear away each other's work
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            make(made)


def make(made: Path) -> None:
    """Compile into this folder, and remove those of other sources."""
    with tempfile.TemporaryDirectory(prefix=".making-", dir=made.parent) as making:
        compile_into(Path(making))
        if folder() != made:
            sys.exit("a source was changed meanwhile; run this again")
        (Path(making) / "lib").rename(made)
    for other in made.parent.iterdir():
        if other.is_dir() and other != made:
            shutil.rmtree(other)


def compile_into(making: Path) -> None:
    """Leave the modules in `making`/lib."""
    extensions = mypycify(
        ["--config-file", "pyproject.toml", *map(source_of, MODULES)],
        opt_level="3",
        debug_level="0",
        target_dir=str(making / "c"),
        group_name=LIBRARY.removesuffix("__mypyc"),
    )
    for extension in extensions:
        # looking for what -Wall warns of takes longer than compiling
        extension.extra_compile_args = [*extension.extra_compile_args, "-Wno-all"]
    folders = ["--build-lib", str(making / "lib"), "--build-temp", str(making / "o")]
    setup(
        name="compiled",
        packages=[],
        ext_modules=extensions,
        script_args=["build_ext", "--parallel", str(os.cpu_count() or 1), *folders],
    )


if __name__ == "__main__":
    main()
