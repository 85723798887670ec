"""An MLTable as a pandas frame. https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable

Paths are local by now (the executor sees to it). A transformation that isn't here is refused by name.
"""

from __future__ import annotations

import datetime
import decimal
import glob
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from localazure_compute.automl.errors import SearchError

_ENCODINGS = {"utf8": "utf-8", "utf8bom": "utf-8-sig", "iso88591": "latin-1", "latin1": "latin-1", "ascii": "ascii",
              "utf16": "utf-16", "utf32": "utf-32", "windows1252": "cp1252"}  # fmt: skip
_HEADERS = ("all_files_same_headers", "from_first_file", "no_header", "all_files_different_headers")
_TYPES = {"int": "Int64", "float": "float64", "string": "object", "boolean": "boolean"}
_ROWS_LOOKED_AT = 1000


def read(folder: Path) -> pd.DataFrame:
    """The table in `folder`. SearchError names the file and what is wrong with it."""
    definition = yaml.safe_load((folder / "MLTable").read_text())
    steps = [_step(entry) for entry in definition.get("transformations") or []]
    readers = [step for step in steps if step[0].startswith("read_")]
    if len(readers) != 1:
        raise SearchError(
            f"An MLTable needs one read transformation (read_parquet, read_delimited, ...), not {len(readers)}."
        )
    kind, options = readers[0]
    if kind not in _READERS:
        raise SearchError(f"The MLTable transformation {kind} is not implemented; there are {', '.join(_READERS)}.")
    if options.pop("include_path_column", False):
        raise SearchError(f"include_path_column of {kind} is not implemented.")
    files = _files(folder, definition["paths"])
    frame = pd.concat([_READERS[kind](file, options) for file in files], ignore_index=True)
    for name, arguments in steps:
        if not name.startswith("read_"):
            frame = _transform(frame, name, arguments)
    return _plain(frame)


def _step(entry: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    name, arguments = next(iter(entry.items()))
    return name, arguments if isinstance(arguments, dict) else {"value": arguments}


def _files(folder: Path, paths: list[dict[str, str]]) -> list[Path]:
    found: list[Path] = []
    for entry in paths:
        kind, text = next(iter(entry.items()))
        path = Path(text) if Path(text).is_absolute() else folder / text
        if kind == "pattern":
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
        elif path.is_dir():
            matches = sorted(
                file for file in path.rglob("*") if file.is_file() and not file.name.startswith(("_", "."))
            )
        else:
            matches = [path]
        if not matches:
            raise SearchError(f"The MLTable's {kind} {text} matches no file.")
        found += matches
    return found


def _parquet(file: Path, options: dict[str, Any]) -> pd.DataFrame:
    _only(options, ())
    try:
        return pd.read_parquet(file)
    except Exception as error:
        raise SearchError(f"{file.name} can't be read as Parquet: {error}") from error


def _delimited(file: Path, options: dict[str, Any]) -> pd.DataFrame:
    _only(options, ("delimiter", "header", "encoding", "empty_as_string", "infer_column_types", "support_multi_line"))
    header = options.get("header", "all_files_same_headers")
    if header not in _HEADERS:
        raise SearchError(f"read_delimited: header must be one of {', '.join(_HEADERS)}, not {header}.")
    encoding = str(options.get("encoding", "utf8"))
    if encoding not in _ENCODINGS:
        raise SearchError(f"read_delimited: encoding must be one of {', '.join(_ENCODINGS)}, not {encoding}.")
    try:
        return pd.read_csv(
            file,
            sep=options.get("delimiter", ","),
            header=None if header == "no_header" else 0,
            encoding=_ENCODINGS[encoding],
            keep_default_na=not options.get("empty_as_string", False),
            dtype=None if options.get("infer_column_types", True) else str,
        )
    except Exception as error:
        raise SearchError(f"{file.name} can't be read as delimited text: {error}") from error


def _json_lines(file: Path, options: dict[str, Any]) -> pd.DataFrame:
    _only(options, ("encoding",))
    try:
        return pd.read_json(file, lines=True)
    except Exception as error:
        raise SearchError(f"{file.name} can't be read as JSON lines: {error}") from error


_READERS: dict[str, Callable[[Path, dict[str, Any]], pd.DataFrame]] = {
    "read_parquet": _parquet,
    "read_delimited": _delimited,
    "read_json_lines": _json_lines,
}


def _only(options: dict[str, Any], known: tuple[str, ...]) -> None:
    if unknown := sorted(set(options) - set(known)):
        raise SearchError(f"The MLTable's read option(s) {', '.join(unknown)} are not implemented.")


def _transform(frame: pd.DataFrame, name: str, arguments: dict[str, Any]) -> pd.DataFrame:
    match name:
        case "keep_columns" | "drop_columns":
            columns = _columns(frame, arguments, name)
            return frame[columns] if name == "keep_columns" else frame.drop(columns=columns)
        case "take":
            return frame.head(int(arguments.get("count", arguments.get("value", 0))))
        case "skip":
            return frame.iloc[int(arguments.get("count", arguments.get("value", 0))) :].reset_index(drop=True)
        case "convert_column_types":
            return _convert(frame, arguments.get("value") or [])
    raise SearchError(f"The MLTable transformation {name} is not implemented.")


def _columns(frame: pd.DataFrame, arguments: dict[str, Any], name: str) -> list[str]:
    wanted = arguments.get("columns", arguments.get("value"))
    listed = [wanted] if isinstance(wanted, str) else list(wanted or [])
    if missing := [column for column in listed if column not in frame]:
        raise SearchError(
            f"{name}: there is no column {', '.join(map(str, missing))}; there are {', '.join(map(str, frame))}."
        )
    return listed


def _convert(frame: pd.DataFrame, rules: list[dict[str, Any]]) -> pd.DataFrame:
    frame = frame.copy()
    for rule in rules:
        kind = rule.get("column_type")
        for column in _columns(frame, rule, "convert_column_types"):
            if kind == "datetime" or (isinstance(kind, dict) and "datetime" in kind):
                frame[column] = pd.to_datetime(frame[column])
            elif kind in _TYPES:
                frame[column] = frame[column].astype(_TYPES[kind])
            else:
                raise SearchError(
                    f"convert_column_types: the type {kind} is not implemented; there are {', '.join(_TYPES)}, "
                    f"datetime."
                )
    return frame


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of the types the features know: bool, int64, float64, datetime64, object of str."""
    out = {}
    for name, column in frame.items():
        if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
            out[str(name)] = column
        elif pd.api.types.is_numeric_dtype(column):
            whole = pd.api.types.is_integer_dtype(column) and not column.isna().any()
            out[str(name)] = column.astype("int64" if whole else "float64")
        else:
            out[str(name)] = _object(column)
    return pd.DataFrame(out)


def _object(column: pd.Series) -> pd.Series:
    known = column.dropna().head(_ROWS_LOOKED_AT)
    if len(known) and all(isinstance(value, datetime.date) for value in known):
        return pd.to_datetime(column)
    if len(known) and all(
        isinstance(value, decimal.Decimal | int | float) and not isinstance(value, bool) for value in known
    ):
        return column.astype("float64")
    if len(known) and all(isinstance(value, bool) for value in known):
        # Booleans with nulls: categories, so that a null stays a null.
        return column.map(str, na_action="ignore").astype(object)
    return column.astype(object).where(column.notna(), None).map(str, na_action="ignore")
