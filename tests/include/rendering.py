"""include/ as the operators see it: SQL templates rendered for a sample night."""

from __future__ import annotations

from collections.abc import Mapping

from azflow.specs import INCLUDE, Night
from lint_sql import AZURE, FIRST_NIGHT, rendered, sql_files

__all__ = ["FIRST_NIGHT", "INCLUDE", "SQL_FILES", "render"]

SQL_FILES = sql_files()


def render(file: str, night: Night = FIRST_NIGHT, azure: Mapping[str, str] = AZURE) -> str:
    """The text of an SQL file for a night."""
    return rendered(file, night, azure)[0]
