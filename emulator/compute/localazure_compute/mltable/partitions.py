"""Columns out of paths: `/{Department}/{PartitionDate:yyyy/MM/dd}/data.csv`.

https://learn.microsoft.com/python/api/mltable/mltable.mltable.mltable#mltable-mltable-mltable-extract-columns-from-partition-format
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pandas as pd

from localazure_compute.mltable.errors import MLTableError

_KEY = re.compile(r"\{(?P<name>[^{}:]+)(?::(?P<format>[^{}]+))?\}")
_TIME = re.compile("yyyy|MM|dd|HH|mm|ss")
_FIELDS = {"yyyy": "year", "MM": "month", "dd": "day", "HH": "hour", "mm": "minute", "ss": "second"}


def columns(addresses: pd.Series, partition_format: str) -> dict[str, pd.Series]:
    """The columns that the format finds in the addresses. MLTableError names an address that doesn't fit.

    The format reaches from the first key to the path's end; one that ends in a folder stands for its files as well.
    """
    keys = list(_KEY.finditer(partition_format))
    if not keys:
        raise MLTableError(f"The partition format '{partition_format}' has no {{column}} in it.")
    expression, place = "", 0
    for number, key in enumerate(keys):
        expression += re.escape(partition_format[place : key.start()]).replace(r"\*", "[^/]*")
        expression += _time_expression(number, key["format"]) if key["format"] else f"(?P<k{number}>[^/]+?)"
        place = key.end()
    expression += re.escape(partition_format[place:]).replace(r"\*", "[^/]*")
    # A time stands anywhere in the path, a name fills a folder.
    before = r"(?:.*?(?<!\d))?" if keys[0].start() == 0 and keys[0]["format"] else "(?:.*/)?"
    wanted = re.compile(f"{before}{expression.removeprefix('/')}(?:/.*)?")
    found: dict[str, list[Any]] = {key["name"]: [] for key in keys}
    known: dict[str, list[Any]] = {}
    for address in addresses.unique():
        match = wanted.fullmatch(address)
        if match is None:
            raise MLTableError(f"'{address}' doesn't fit the partition format '{partition_format}'.")
        known[address] = [_value(match, number, key["format"]) for number, key in enumerate(keys)]
    for address in addresses:
        for key, value in zip(keys, known[address], strict=True):
            found[key["name"]].append(value)
    return {name: pd.Series(values, index=addresses.index) for name, values in found.items()}


def _time_expression(key: int, text: str) -> str:
    expression, place = "", 0
    for token in _TIME.finditer(text):
        digits = len(token[0])
        expression += re.escape(text[place : token.start()]) + rf"(?P<k{key}_{_FIELDS[token[0]]}>\d{{{digits}}})"
        place = token.end()
    if not place:
        raise MLTableError(f"The partition format's time '{text}' has none of yyyy, MM, dd, HH, mm, ss.")
    return expression + re.escape(text[place:])


def _value(match: re.Match[str], key: int, time: str | None) -> Any:
    if time is None:
        return match[f"k{key}"]
    parts = {"year": 1, "month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0}
    for name in parts:
        if f"k{key}_{name}" in match.re.groupindex:
            parts[name] = int(match[f"k{key}_{name}"])
    try:
        return datetime(**parts)
    except ValueError as error:
        raise MLTableError(f"'{match[0]}' holds no time: {error}") from error
