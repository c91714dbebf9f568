"""Reads `multipart/form-data`, in memory: the server has bounded the body already.

Not by Werkzeug's decoder: that spends seconds of CPU on a part whose head is megabytes long, and, fed in pieces so that this can be
noticed, it lets a line end slip into a file's content.
"""

from werkzeug.http import parse_options_header

MOST_PARTS = 20
MOST_HEAD_BYTES = 8192
MOST_FIELD_BYTES = 4096


class MalformedError(ValueError):
    """The body is not the form that its head says."""


def read_form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    """Fields, and files as (file name, content), by name; of a repeated name the last. Raises MalformedError."""
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise MalformedError("the body must be multipart/form-data with a boundary")
    before, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), MOST_PARTS + 1)
    if before.strip() or not parts or not parts[-1].startswith(b"--"):
        raise MalformedError(f"the form is cut off, or has more than {MOST_PARTS} parts")
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, bytes]] = {}
    for part in parts[:-1]:
        name, filename, content = _read_part(part)
        if filename is not None:
            files[name] = (filename, content)
            continue
        if len(content) > MOST_FIELD_BYTES:
            raise MalformedError(f"the field {name[:64]!r} is too long")
        try:
            fields[name] = content.decode()
        except UnicodeDecodeError:
            raise MalformedError(f"the field {name[:64]!r} is not UTF-8") from None
    return fields, files


def _read_part(part: bytes) -> tuple[str, str | None, bytes]:
    """Name, file name and content of what stands between two boundaries. Raises MalformedError."""
    head, gap, content = part.partition(b"\r\n\r\n")
    if not gap or len(head) > MOST_HEAD_BYTES:
        raise MalformedError(f"a part has no head, or one of more than {MOST_HEAD_BYTES} bytes")
    rest, *lines = head.split(b"\r\n")
    for line in lines:
        title, _, value = line.partition(b":")
        if rest.strip() or title.lower() != b"content-disposition":
            continue
        try:
            kind, options = parse_options_header(value.strip().decode())
        except UnicodeDecodeError:
            break
        if kind == "form-data" and "name" in options:
            return options["name"], options.get("filename"), content
    raise MalformedError("a part has no name")
