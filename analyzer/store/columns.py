"""Row types: one frozen dataclass a table, whose fields carry their own definition.

A table of the store *is* a frozen dataclass: the annotations give the column types, and
`column(...)` gives every field its definition, unit and source. The same text reaches DuckDB as
a comment on the column, `analyzer show --help`, the dashboard's tooltips and the report's glossary.

    @dataclass(frozen=True, slots=True)
    class TailRow:
        TABLE: ClassVar[str] = "tail"
        matrix_id: int = column("matrix the row belongs to")
        alpha: float | None = column("exponent of the tail density", source="Clauset 2009, eq. 3.1")
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

_SQL_TYPES: dict[type, str] = {
    int: "BIGINT",
    float: "DOUBLE",
    str: "VARCHAR",
    bool: "BOOLEAN",
}


class Row(Protocol):
    """A frozen dataclass with the name of its table."""

    TABLE: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """Name, SQL type, definition, unit and source of one column."""

    name: str
    sql_type: str
    description: str
    unit: str
    source: str


def column(
    description: str, *, unit: str = "", source: str = "", default: Any = dataclasses.MISSING
) -> Any:
    """A dataclass field that carries its definition (`description`, `unit`, `source`)."""
    metadata = {"description": description, "unit": unit, "source": source}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def columns(row_type: type[Row]) -> Iterator[Column]:
    """The columns of a row type, in order. Raises TypeError for a type DuckDB is not given."""
    hints = typing.get_type_hints(row_type)
    for field in dataclasses.fields(row_type):
        yield Column(
            name=field.name,
            sql_type=_sql_type(hints[field.name]),
            description=field.metadata.get("description", ""),
            unit=field.metadata.get("unit", ""),
            source=field.metadata.get("source", ""),
        )


def _sql_type(hint: Any) -> str:
    """`float`, `float | None` → DOUBLE, and so on."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (member for member in typing.get_args(hint) if member is not type(None))
    if hint not in _SQL_TYPES:
        raise TypeError(f"no column type for {hint!r}")
    return _SQL_TYPES[hint]
