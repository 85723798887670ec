"""The transformations after reading, in the order written.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable#other-transformations
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from localazure_compute.mltable import filters, partitions, reading
from localazure_compute.mltable.definition import Definition
from localazure_compute.mltable.errors import MLTableError

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def frame_of(definition: Definition) -> pd.DataFrame:
    """The whole table. MLTableError says what is wrong with the definition or the data."""
    rows = reading.read(definition)
    for name, argument in definition.steps[1:]:
        rows = _transform(rows, name, argument)
    return rows.frame.reset_index(drop=True)


def _transform(rows: reading.Rows, name: str, argument: Any) -> reading.Rows:
    frame = rows.frame
    match name:
        case "keep_columns":
            frame = frame[_columns(frame, argument, name)]
        case "drop_columns":
            frame = frame.drop(columns=_columns(frame, argument, name))
        case "take":
            frame = frame.head(_count(name, argument))
        case "skip":
            frame = frame.iloc[_count(name, argument) :]
        case "filter":
            frame = frame[filters.mask(frame, str(_single(name, argument, "expression")))]
        case "take_random_sample":
            frame = _sample(frame, argument)
        case "convert_column_types":
            frame = _convert(frame, argument)
        case _:
            text = _partition_format(argument)
            found = partitions.columns(rows.addresses.loc[frame.index], text)
            frame = frame.assign(**found)
    return reading.Rows(frame, rows.addresses)


def _single(name: str, argument: Any, key: str) -> Any:
    """The only argument, whether it stands alone or under its name."""
    if isinstance(argument, Mapping):
        if set(argument) != {key}:
            raise MLTableError(f"{name} takes {key}, not {', '.join(map(str, argument))}.")
        return argument[key]
    return argument


def _count(name: str, argument: Any) -> int:
    count = _single(name, argument, "count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise MLTableError(f"{name} takes a number of rows, not {count!r}.")
    return count


def _columns(frame: pd.DataFrame, argument: Any, name: str) -> list[str]:
    wanted = _single(name, argument, "columns")
    listed = [wanted] if isinstance(wanted, str) else list(wanted or [])
    if missing := [str(column) for column in listed if column not in frame]:
        raise MLTableError(f"{name}: there is no column {', '.join(missing)}; there are {', '.join(map(str, frame))}.")
    return listed


def _sample(frame: pd.DataFrame, argument: Any) -> pd.DataFrame:
    options = dict(argument) if isinstance(argument, Mapping) else {"probability": argument}
    probability, seed = options.pop("probability", None), options.pop("seed", None)
    if options or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise MLTableError(f"take_random_sample takes a probability from 0 to 1 and a seed, not {argument!r}.")
    return frame[np.random.default_rng(seed).random(len(frame)) < probability]


def _partition_format(argument: Any) -> str:
    # Unquoted, YAML reads {timestamp:yyyy/MM/dd} as a mapping with one key.
    if isinstance(argument, Mapping) and len(argument) == 1:
        key, value = next(iter(argument.items()))
        return str(value) if key == "partition_format" else f"{{{key}}}" if value is None else f"{{{key}:{value}}}"
    return str(argument)


def _convert(frame: pd.DataFrame, argument: Any) -> pd.DataFrame:
    if not isinstance(argument, list):
        raise MLTableError("convert_column_types takes a list of columns and column_type.")
    frame = frame.copy()
    for rule in argument:
        if not isinstance(rule, Mapping) or set(rule) != {"columns", "column_type"}:
            raise MLTableError(f"convert_column_types takes columns and column_type, not {rule!r}.")
        kind = rule["column_type"]
        kind, options = next(iter(kind.items())) if isinstance(kind, Mapping) else (kind, None)
        for name in _columns(frame, rule["columns"], "convert_column_types"):
            frame[name] = _converted(frame[name], str(kind), dict(options or {}))
    return frame


def _converted(column: pd.Series, kind: str, options: dict[str, Any]) -> pd.Series:
    try:
        match kind:
            case "int" | "long" if not options:
                numbers = pd.to_numeric(column)
                if ((numbers % 1).fillna(0) != 0).any():
                    raise ValueError(f"{numbers[(numbers % 1).fillna(0) != 0].iloc[0]} is no whole number")
                return numbers.astype("Int64") if numbers.isna().any() else numbers.astype("int64")
            case "float" | "double" if not options:
                return pd.to_numeric(column).astype("float64")
            case "string" if not options:
                return column.map(_text, na_action="ignore").astype(object)
            case "boolean" | "bool":
                return _boolean(column, options)
            case "datetime":
                return _datetime(column, options)
    except (ValueError, TypeError) as error:
        raise MLTableError(f"convert_column_types: '{column.name}' can't be made {kind}: {error}") from error
    given = f" with {', '.join(options)}" if options else ""
    raise MLTableError(
        f"convert_column_types: the type {kind}{given} is not implemented; there are int, float, string, boolean, "
        "datetime."
    )


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _boolean(column: pd.Series, options: dict[str, Any]) -> pd.Series:
    """https://learn.microsoft.com/python/api/mltable/mltable.datatype#mltable-datatype-to-bool"""
    true = [str(value).lower() for value in options.pop("true_values", None) or _TRUE]
    false = [str(value).lower() for value in options.pop("false_values", None) or _FALSE]
    otherwise = str(options.pop("mismatch_as", "error"))
    if options or otherwise not in ("error", "true", "false"):
        raise ValueError(f"boolean takes true_values, false_values and mismatch_as (error, true, false), not {options}")

    def convert(value: Any) -> bool:
        text = _text(value).lower()
        if text in true or text in false:
            return text in true
        if otherwise == "error":
            raise ValueError(f"{value!r} is neither true ({', '.join(true)}) nor false ({', '.join(false)})")
        return otherwise == "true"

    made = column.map(convert, na_action="ignore")
    return made.astype("boolean") if made.isna().any() else made.astype(bool)


def _datetime(column: pd.Series, options: dict[str, Any]) -> pd.Series:
    """https://learn.microsoft.com/python/api/mltable/mltable.datatype#mltable-datatype-to-datetime"""
    formats = options.pop("formats", None)
    if options:
        raise ValueError(f"datetime takes formats; {', '.join(options)} is not implemented")
    if not formats:
        return pd.to_datetime(column)
    made = pd.Series(pd.NaT, index=column.index, dtype="datetime64[ns]")
    for text in [formats] if isinstance(formats, str) else formats:
        made = made.fillna(pd.to_datetime(column, format=text, errors="coerce"))
    if (unread := column.notna() & made.isna()).any():
        raise ValueError(f"{column[unread].iloc[0]!r} fits none of {formats}")
    return made
