"""LIKE and PATINDEX: T-SQL's wildcards, with character classes, case folded.

https://learn.microsoft.com/en-us/sql/t-sql/language-elements/like-transact-sql
"""

from __future__ import annotations

import re

from localazure.sql import errors
from localazure.sql.conversions import Value
from localazure.sql.macros import call


def regex(pattern: str, escape: str | None = None) -> str:
    """The RE2 expression for a pattern's inside: no anchors."""
    out: list[str] = []
    index = 0
    while index < len(pattern):
        letter = pattern[index]
        index += 1
        if escape and letter == escape and index < len(pattern):
            out.append(re.escape(pattern[index]))
            index += 1
        elif letter == "%":
            out.append(".*")
        elif letter == "_":
            out.append(".")
        elif letter == "[" and "]" in pattern[index + 1 :]:
            end = pattern.index("]", index + 1)
            body = pattern[index:end]
            negated = body.startswith("^")
            body = (body[1:] if negated else body).replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[{'^' if negated else ''}{body}]")
            index = end + 1
        else:
            out.append(re.escape(letter))
    return "".join(out)


def like_sql(value: Value, pattern: Value, escape: str | None) -> str:
    """``value LIKE pattern``; a constant pattern with a class becomes a regular expression."""
    if pattern.literal is None:
        if escape is not None:
            return f"tsql_like({value.sql}, {pattern.sql}, {errors.literal(escape)})"
        return call("like_dynamic", value.sql, pattern.sql)
    text = pattern.literal
    if "[" not in text and escape is None:
        return f"{value.sql} ILIKE {errors.literal(text)}"
    return f"regexp_full_match({value.sql}, {errors.literal('(?is)' + regex(text, escape))})"


def patindex_regex(pattern: str) -> tuple[str, bool, bool]:
    """(expression, anchored at the start, anchored at the end) of a PATINDEX pattern."""
    start, end = not pattern.startswith("%"), not pattern.endswith("%")
    inner = pattern.removeprefix("%")
    inner = inner.removesuffix("%") if not end else inner
    return regex(inner), start, end
