"""Functions that DuckDB lacks, in Python over Arrow columns: hashes of UTF-16 text and SHA-512, SOUNDEX, PARSENAME.

https://learn.microsoft.com/en-us/sql/t-sql/functions/hashbytes-transact-sql
Difference: varchar is hashed as UTF-8, the vendor's default code page is 1252; ASCII text gives the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa

from localazure.sql.lexer import tokens
from localazure.sql.patterns import regex
from localazure.sql.results import SqlError

HASHES = {"MD5": "md5", "SHA1": "sha1", "SHA": "sha1", "SHA2_256": "sha256", "SHA2_512": "sha512"}


def hash_name(algorithm: str, national: bool) -> str:
    """The registered function that hashes text by ``algorithm`` (a key of HASHES)."""
    return f"tsql_{HASHES[algorithm]}_{'utf16' if national else 'utf8'}"


def _hasher(name: str, encoding: str) -> Callable[[str], bytes]:
    return lambda text: hashlib.new(name, text.encode(encoding), usedforsecurity=False).digest()


_SOUNDEX = {
    letter: code for code, letters in enumerate(("BFPV", "CGJKQSXZ", "DT", "L", "MN", "R"), 1) for letter in letters
}


def soundex(text: str) -> str:
    """https://learn.microsoft.com/en-us/sql/t-sql/functions/soundex-transact-sql"""
    letters = text.strip().upper()
    if not letters or not letters[0].isalpha():
        return "0000"
    code, previous = letters[0], _SOUNDEX.get(letters[0], 0)
    for letter in letters[1:]:
        if not letter.isalpha():
            break
        digit = _SOUNDEX.get(letter, 0)
        if digit and digit != previous:
            code += str(digit)
        if letter not in "HW":
            previous = digit
    return (code + "000")[:4]


def parsename(text: str) -> list[str | None]:
    """[object, schema, database, server] of a dotted name; empty where the name isn't one."""
    try:
        found = tokens(text)
    except SqlError:
        return []
    parts: list[str | None] = [""]
    for token in found[:-1]:
        if token.key == ".":
            parts.append("")
        elif token.kind in {"word", "quoted"} and parts[-1] == "":
            parts[-1] = token.text
        else:
            return []
    return [part or None for part in reversed(parts)]


def like(text: str | None, pattern: str | None, escape: str | None) -> bool | None:
    """LIKE with a pattern that is only known row by row."""
    if text is None or pattern is None:
        return None
    return re.fullmatch(regex(pattern, escape or None), text, re.IGNORECASE | re.DOTALL) is not None


_STEP = re.compile(r'\.(?:"((?:[^"\\\\]|\\\\.)*)"|(\w+))|\[(\d+)\]')


def json_modify(text: str | None, path: str, value: str | None) -> str | None:
    """``text`` with the value at ``path`` changed; a NULL value takes a property away, ``append`` adds to an array."""
    if text is None:
        return None
    append = path.startswith("append ")
    steps = [name or word or int(number) for name, word, number in _STEP.findall(path.partition("$")[2])]
    root = json.loads(text)
    if not steps:
        return text
    place: Any = root
    for step, following in itertools.pairwise(steps):
        if isinstance(place, dict) and isinstance(step, str):
            place = place.setdefault(step, [] if isinstance(following, int) else {})
        elif isinstance(place, list) and isinstance(step, int) and step < len(place):
            place = place[step]
        else:
            return text
    last, new = steps[-1], None if value is None else json.loads(value)
    if append:
        found = place.setdefault(last, []) if isinstance(place, dict) else place[last]
        found.append(new)
    elif isinstance(place, dict) and value is None:
        place.pop(last, None)
    elif isinstance(place, dict) or (isinstance(place, list) and isinstance(last, int) and last < len(place)):
        place[last] = new
    return json.dumps(root, ensure_ascii=False, separators=(",", ":"))


def _mapped(rule: Callable[[str], Any], kind: pa.DataType) -> Callable[[pa.ChunkedArray], pa.Array]:
    def over(column: pa.ChunkedArray) -> pa.Array:
        return pa.array([None if text is None else rule(text) for text in column.to_pylist()], kind)

    return over


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Register them; functions live as long as the connection."""

    def register(name: str, rule: Callable[[str], Any], duck_type: str, kind: pa.DataType) -> None:
        connection.create_function(
            name, _mapped(rule, kind), ["VARCHAR"], duck_type, type="arrow", null_handling="special"
        )  # type: ignore[call-overload,unused-ignore]

    def like_columns(text: pa.ChunkedArray, pattern: pa.ChunkedArray, escape: pa.ChunkedArray) -> pa.Array:
        rows = zip(text.to_pylist(), pattern.to_pylist(), escape.to_pylist(), strict=True)
        return pa.array([like(*row) for row in rows], pa.bool_())

    connection.create_function(
        "tsql_like", like_columns, ["VARCHAR"] * 3, "BOOLEAN", type="arrow", null_handling="special"
    )  # type: ignore[call-overload,unused-ignore]

    def modified(text: pa.ChunkedArray, path: pa.ChunkedArray, value: pa.ChunkedArray) -> pa.Array:
        rows = zip(text.to_pylist(), path.to_pylist(), value.to_pylist(), strict=True)
        return pa.array([json_modify(*row) for row in rows], pa.string())

    connection.create_function(
        "tsql_json_modify", modified, ["VARCHAR"] * 3, "VARCHAR", type="arrow", null_handling="special"
    )  # type: ignore[call-overload,unused-ignore]
    for algorithm, name in HASHES.items():
        if algorithm != "SHA":
            for national, encoding in ((False, "utf-8"), (True, "utf-16-le")):
                register(hash_name(algorithm, national), _hasher(name, encoding), "BLOB", pa.binary())
    register("tsql_soundex", soundex, "VARCHAR", pa.string())
    register("tsql_parsename", parsename, "VARCHAR[]", pa.list_(pa.string()))
