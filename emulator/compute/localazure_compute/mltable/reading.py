"""Files into rows, one reader a format. https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable"""

from __future__ import annotations

import glob
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from localazure_compute.mltable.definition import Definition
from localazure_compute.mltable.errors import MLTableError

ENCODINGS = {"utf8": "utf-8", "utf8bom": "utf-8-sig", "iso88591": "latin-1", "latin1": "latin-1", "ascii": "ascii",
             "utf16": "utf-16", "utf32": "utf-32", "windows1252": "cp1252"}  # fmt: skip
HEADERS = ("all_files_same_headers", "from_first_file", "no_header", "all_files_different_headers")
PATH_COLUMN = "Path"
_DATES = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?"


@dataclass
class Rows:
    """Rows and, for each of them, the address of the file it stands in (aligned by index)."""

    frame: pd.DataFrame
    addresses: pd.Series


def read(definition: Definition) -> Rows:
    """The rows of the table's read transformation. MLTableError names the file and what is wrong with it."""
    name, argument = definition.steps[0]
    if argument is not None and not isinstance(argument, Mapping):
        raise MLTableError(f"{name} takes named arguments, not {argument!r}.")
    options = dict(argument or {})
    with_path = _flag(name, options, "include_path_column") if name != "read_delta_lake" else False
    parts = _READERS[name](definition, options)
    if options:
        raise MLTableError(f"The option(s) {', '.join(sorted(options))} of {name} are not implemented.")
    frame = pd.concat([frame for _, frame in parts], ignore_index=True) if len(parts) > 1 else parts[0][1]
    addresses = [_address(definition, path) for path, _ in parts]
    told = pd.Series(np.repeat(addresses, [len(part) for _, part in parts]), dtype=object)
    frame = frame.reset_index(drop=True)
    frame.columns = [str(column) for column in frame.columns]
    if with_path:
        frame.insert(0, PATH_COLUMN, told)
    return Rows(frame, told)


def _files(definition: Definition) -> list[Path]:
    found: list[Path] = []
    for kind, text in definition.paths:
        path = _local(definition, text)
        if kind == "pattern":
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
        elif path.is_dir():
            matches = [
                file
                for file in sorted(path.rglob("*"))
                if file.is_file() and not file.name.startswith(("_", ".")) and file.name != "MLTable"
            ]
        else:
            matches = [path] if path.is_file() else []
        if not matches:
            raise MLTableError(f"The MLTable's {kind} {text} matches no file.")
        found += matches
    return found


def _local(definition: Definition, text: str) -> Path:
    if "://" in text.removeprefix("file://"):
        raise MLTableError(
            f"'{text}' is not on this machine. Declare the table as an input of the job (type mltable): then its files "
            "are brought before the job starts."
        )
    path = Path(text.removeprefix("file://"))
    return path if path.is_absolute() else definition.base / path


def _address(definition: Definition, path: Path) -> str:
    """What the service calls the file: the address a local copy came from."""
    text = str(path)
    for local, source in sorted(definition.sources.items(), key=lambda pair: -len(pair[0])):
        if text == local:
            return source
        if text.startswith(local.rstrip("/") + "/"):
            return f"{source.rstrip('/')}/{text[len(local.rstrip('/')) + 1 :]}"
    return text


def _flag(reader: str, options: dict[str, Any], name: str, default: bool = False) -> bool:
    value = options.pop(name, default)
    if not isinstance(value, bool):
        raise MLTableError(f"{reader}: {name} is true or false, not {value!r}.")
    return value


def _encoding(reader: str, options: dict[str, Any]) -> str:
    encoding = str(options.pop("encoding", "utf8"))
    if encoding not in ENCODINGS:
        raise MLTableError(f"{reader}: encoding must be one of {', '.join(ENCODINGS)}, not {encoding}.")
    return ENCODINGS[encoding]


def _delimited(definition: Definition, options: dict[str, Any]) -> list[tuple[Path, pd.DataFrame]]:
    """A quoted line break never ends a record, whatever `support_multi_line` says: the service's faster way of reading
    would break such records into misaligned ones."""
    reader = "read_delimited"
    header = str(options.pop("header", HEADERS[0]))
    if header not in HEADERS:
        raise MLTableError(f"{reader}: header must be one of {', '.join(HEADERS)}, not {header}.")
    delimiter = str(options.pop("delimiter", ","))
    encoding = _encoding(reader, options)
    empty_as_string = _flag(reader, options, "empty_as_string")
    infer = _flag(reader, options, "infer_column_types", True)
    _flag(reader, options, "support_multi_line")
    found: list[tuple[Path, pd.DataFrame]] = []
    names: list[str] | None = None
    for number, file in enumerate(_files(definition)):
        with_header = header.startswith("all_files") or (header == "from_first_file" and number == 0)
        try:
            frame = pd.read_csv(
                file,
                sep=delimiter,
                header=0 if with_header else None,
                encoding=encoding,
                keep_default_na=not empty_as_string,
                dtype=None if infer else str,
                engine="c" if len(delimiter) == 1 else "python",
                low_memory=False,
            )
        except pd.errors.EmptyDataError:
            frame = pd.DataFrame()
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise MLTableError(f"{file.name} can't be read as delimited text: {error}") from error
        if not with_header:
            frame.columns = pd.Index([f"Column{place + 1}" for place in range(frame.shape[1])])
        if header != "all_files_different_headers":
            names = list(frame.columns) if names is None else names
            if len(names) != frame.shape[1]:
                raise MLTableError(f"{file.name} has {frame.shape[1]} columns, the files before it {len(names)}.")
            frame.columns = pd.Index(names)
        found.append((file, _with_dates(frame) if infer else frame))
    return found


def _with_dates(frame: pd.DataFrame) -> pd.DataFrame:
    """Text that is a date or time in every row becomes one, as the service infers it."""
    for name in frame.select_dtypes(object).columns:
        known = frame[name].dropna()
        if len(known) and known.map(type).eq(str).all() and known.str.fullmatch(_DATES).all():
            converted = pd.to_datetime(frame[name], errors="coerce", format="ISO8601", utc=True).dt.tz_localize(None)
            if converted.notna().sum() == len(known):
                frame[name] = converted
    return frame


def _parquet(definition: Definition, options: dict[str, Any]) -> list[tuple[Path, pd.DataFrame]]:
    found = []
    for file in _files(definition):
        try:
            # Not as a dataset: folders like day=2013-01-01 would become columns, which the service leaves to
            # extract_columns_from_partition_format.
            found.append((file, pd.read_parquet(io.BytesIO(file.read_bytes()))))
        except (OSError, ValueError) as error:
            raise MLTableError(f"{file.name} can't be read as Parquet: {error}") from error
    return found


def _json_lines(definition: Definition, options: dict[str, Any]) -> list[tuple[Path, pd.DataFrame]]:
    reader = "read_json_lines"
    encoding = _encoding(reader, options)
    invalid = options.pop("invalid_lines", "error")
    if invalid not in ("error", "drop"):
        raise MLTableError(f"{reader}: invalid_lines must be error or drop, not {invalid}.")
    found = []
    for file in _files(definition):
        records = []
        for number, line in enumerate(file.read_text(encoding=encoding).splitlines(), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("a line must hold an object")
            except ValueError as error:
                if invalid == "drop":
                    continue
                raise MLTableError(f"{file.name}, line {number}, isn't valid JSON: {error}") from error
            records.append(record)
        found.append((file, _with_dates(pd.DataFrame(records))))
    return found


def _delta_lake(definition: Definition, options: dict[str, Any]) -> list[tuple[Path, pd.DataFrame]]:
    """https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable#delta-lake"""
    version, moment = options.pop("version_as_of", None), options.pop("timestamp_as_of", None)
    if (version is None) == (moment is None):
        raise MLTableError("read_delta_lake needs one of timestamp_as_of and version_as_of.")
    if len(definition.paths) != 1 or definition.paths[0][0] != "folder":
        raise MLTableError("read_delta_lake reads one folder.")
    folder = _local(definition, definition.paths[0][1])
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        if version is not None:
            table = DeltaTable(str(folder), version=int(version))
        else:
            table = DeltaTable(str(folder))
            latest = table.history(1)[0]["timestamp"] / 1000
            asked = datetime.fromisoformat(str(moment))
            # A time in the future means the newest version; the library refuses it.
            if asked.tzinfo is None:
                raise ValueError("a time needs its offset, such as 2022-10-01T00:00:00Z")
            if asked.timestamp() < latest:
                table.load_as_version(asked)
        return [(folder, table.to_pyarrow_table().to_pandas())]
    except (DeltaError, OSError, ValueError) as error:
        raise MLTableError(f"{definition.paths[0][1]} can't be read as a Delta table: {error}") from error


_READERS: dict[str, Callable[[Definition, dict[str, Any]], list[tuple[Path, pd.DataFrame]]]] = {
    "read_delimited": _delimited,
    "read_parquet": _parquet,
    "read_json_lines": _json_lines,
    "read_delta_lake": _delta_lake,
}
