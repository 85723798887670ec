"""Columns of catalogue views, written as T-SQL declares them."""

from __future__ import annotations

from localazure.sql.parse_expressions import Parser
from localazure.sql.results import SqlType

Spec = list[tuple[str, SqlType]]


class _Columns(Parser):
    def column(self) -> tuple[str, SqlType]:
        name = self.advance().text
        return name, self.data_type()


def declare(text: str) -> Spec:
    """``declare("object_id int, name sysname")``."""
    parser = _Columns(text)
    return parser.comma_list(parser.column)
