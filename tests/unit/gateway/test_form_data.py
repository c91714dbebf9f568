"""Uploads: what a form may look like, and what a hostile one may cost."""

import time

import pytest

from offchain.gateway.batches.form_data import MalformedError, read_form

KIND = "multipart/form-data; boundary=b"
BIG = 4 * 1024 * 1024


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def field(name: bytes, content: bytes, *lines: bytes) -> bytes:
    return (
        b"\r\n".join((b'Content-Disposition: form-data; name="' + name + b'"', *lines))
        + b"\r\n\r\n"
        + content
    )


FILE = b'file"; filename="x.jsonl'


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"--b", b"\r\n--", b"\r\n--c\r\n", b"\n--b--\n", bytes(range(256)), b"\r" * 99]
)
def test_read_form__file__comes_out_byte_for_byte(content: bytes) -> None:
    fields, files = read_form(KIND, form(field(b"purpose", b"batch"), field(FILE, content)))
    assert fields == {"purpose": "batch"}
    assert files == {"file": ("x.jsonl", content)}


@pytest.mark.parametrize(
    "body",
    [
        form(field(b"purpose", b"batch", b"X: " + b"y" * BIG)),
        form(field(b"purpose", b"batch", *[b"X: y"] * (BIG // 6))),
        form(b'Content-Disposition: form-data; name="file"; filename="x"; ' + b"a=b; " * (BIG // 5) + b"\r\n\r\nx"),
        form(b"Content-Disposition: form-data;\r\n" + b" a=b;\r\n" * (BIG // 7) + b' name="x"\r\n\r\nx'),
        form(*[field(b"a", b"")] * (BIG // 50)),
        b'--b\r\nContent-Disposition: form-data; name="fi' + b"x" * BIG,
        b"\r\n" * (BIG // 2),
        form(field(FILE, b"\r\n--" * (BIG // 4)))[:-6],
        form(field(FILE, b"\r" * BIG))[:-6],
        b"x" * BIG + b"\r\n" + form(field(b"purpose", b"batch")),
    ],
    ids=["long header", "headers", "options", "folded", "parts", "no end of head", "no boundary", "near boundaries", "returns", "preamble"],
)  # fmt: skip
def test_read_form__hostile_and_large__is_refused_for_a_few_milliseconds(body: bytes) -> None:
    began = time.process_time()
    with pytest.raises(MalformedError):
        read_form(KIND, body)
    assert time.process_time() - began < 0.3
