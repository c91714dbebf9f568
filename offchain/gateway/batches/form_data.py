"""Reads `multipart/form-data` in memory; the HTTP server has bounded the body. Why this library: adr/0085."""

from collections.abc import Iterator

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

MAX_PARTS = 20
MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
MAX_FIELD_BYTES = 4096


class MalformedError(ValueError):
    """The body is not the form that its content type announces."""


def read_form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    """Fields by name, and files as (file name, content) by name; of a repeated name the last. Raises MalformedError."""
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise MalformedError("the body must be multipart/form-data with a boundary")
    if not body.startswith((f"--{boundary}".encode(), f"\r\n--{boundary}".encode())):
        # the library would skip what comes before the boundary
        raise MalformedError("the form does not begin with its boundary")
    fields: dict[str, str] = {}
    files: dict[str, tuple[str, bytes]] = {}
    try:
        for part, content in _parts(boundary, body):
            name = part.name or ""
            if part.filename is not None:
                files[name] = (part.filename, content)
            elif len(content) > MAX_FIELD_BYTES:
                raise MalformedError(f"the field {name[:64]!r} is too long")
            else:
                fields[name] = content.decode()
    except MultipartError as error:
        raise MalformedError(f"the form cannot be read: {error.args[0]}") from None
    except UnicodeDecodeError:
        raise MalformedError("a field is not UTF-8") from None
    return fields, files


def _parts(boundary: str, body: bytes) -> Iterator[tuple[MultipartSegment, bytes]]:
    """The form's parts with their content. Raises MultipartError."""
    parser = PushMultipartParser(
        boundary,
        content_length=len(body),
        max_header_size=MAX_HEADER_BYTES,
        max_header_count=MAX_HEADERS,
        max_segment_count=MAX_PARTS,
        strict=True,
    )
    pieces: list[bytes] = []
    part: MultipartSegment | None = None
    with parser:
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                part, pieces = event, []
            elif event is not None:
                pieces.append(event)
            elif part is not None:
                yield part, b"".join(pieces)
