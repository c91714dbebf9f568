"""Files that are replaced whole: a reader sees the old content or the new, never half of one. The only body of that."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Replace a file's content; text is written as UTF-8. Guarantees as of `replacing`. Raises OSError."""
    with replacing(path, mode=mode) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends, and is removed when the block fails.

    The content is on the disk (fsync) before the name changes, so after a crash `path` holds the old content or the new,
    whole. The folder is not synced: after a power cut the old content may be back.

    Args:
        path: its folder is made if missing.
        mode: permissions of the new file, whatever the umask; by default for its owner alone.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)  # mkstemp made it 0600
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
