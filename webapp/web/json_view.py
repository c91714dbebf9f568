"""A page's view as JSON: the same fields, with amounts and weights as decimal text."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

_BIG = ("_wei", "weight")


def jsonable(value: Any, name: str = "") -> Any:
    """JSON data of a view. Integers whose field name ends in `_wei` or `weight` become text: they can exceed 2^53."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: jsonable(getattr(value, field.name), field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: jsonable(item, key) for key, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item, name) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return str(value) if name.endswith(_BIG) else value
    return value
