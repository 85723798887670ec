"""What training code uses of Azure ML's package `mltable`, over files on this machine.

https://learn.microsoft.com/python/api/mltable/mltable. What isn't here raises AttributeError or MLTableError, by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from localazure_compute.mltable.definition import Definition
from localazure_compute.mltable.errors import MLTableError
from localazure_compute.mltable.transforming import frame_of

__all__ = [
    "DataType", "MLTable", "MLTableError", "from_delimited_files", "from_delta_lake", "from_json_lines_files",
    "from_parquet_files", "from_paths", "load",
]  # fmt: skip


class DataType:
    """Column types for `convert_column_types`."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    @classmethod
    def to_int(cls) -> DataType:
        return cls("int")

    @classmethod
    def to_float(cls) -> DataType:
        return cls("float")

    @classmethod
    def to_string(cls) -> DataType:
        return cls("string")

    @classmethod
    def to_bool(
        cls, true_values: list[str] | None = None, false_values: list[str] | None = None, mismatch_as: str = "error"
    ) -> DataType:
        given = {"true_values": true_values, "false_values": false_values, "mismatch_as": mismatch_as}
        return cls({"boolean": {name: value for name, value in given.items() if value is not None}})

    @classmethod
    def to_datetime(cls, formats: str | list[str]) -> DataType:
        return cls({"datetime": {"formats": [formats] if isinstance(formats, str) else formats}})


class MLTable:
    """A table that isn't read before its rows are asked for; every method answers a new one."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition

    @property
    def paths(self) -> list[dict[str, str]]:
        return [{kind: address} for kind, address in self._definition.paths]

    def to_pandas_dataframe(self) -> pd.DataFrame:
        """All rows. MLTableError if they can't be read."""
        return frame_of(self._definition)

    def show(self, count: int = 20) -> pd.DataFrame:
        """The first rows."""
        return self.take(count).to_pandas_dataframe()

    def keep_columns(self, columns: str | Sequence[str]) -> MLTable:
        return self._with("keep_columns", _names(columns))

    def drop_columns(self, columns: str | Sequence[str]) -> MLTable:
        return self._with("drop_columns", _names(columns))

    def filter(self, expression: str) -> MLTable:
        return self._with("filter", expression)

    def skip(self, count: int) -> MLTable:
        return self._with("skip", count)

    def take(self, count: int = 20) -> MLTable:
        return self._with("take", count)

    def take_random_sample(self, probability: float, seed: int | None = None) -> MLTable:
        return self._with("take_random_sample", {"probability": probability, "seed": seed})

    def convert_column_types(self, column_types: Mapping[str | tuple[str, ...], DataType]) -> MLTable:
        rules = [{"columns": _names(name), "column_type": wanted.kind} for name, wanted in column_types.items()]
        return self._with("convert_column_types", rules)

    def extract_columns_from_partition_format(self, partition_format: str) -> MLTable:
        return self._with("extract_columns_from_partition_format", partition_format)

    def save(self, path: str, overwrite: bool = True) -> None:
        """Writes the file MLTable into the folder `path`; its paths become absolute."""
        target = Path(path) / "MLTable"
        if target.exists() and not overwrite:
            raise MLTableError(f"{target} exists.")
        content = self._definition.content()
        content["paths"] = [
            {kind: address if "://" in address else os.path.abspath(self._definition.base / address)}
            for entry in content["paths"]
            for kind, address in entry.items()
        ]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def _with(self, name: str, argument: Any) -> MLTable:
        return MLTable(self._definition.with_step(name, argument))


def load(uri: str, **unknown: Any) -> MLTable:
    """The table whose file MLTable is in the folder `uri`: an input of type mltable, or a folder of one's own."""
    if unknown:
        raise MLTableError(f"load: {', '.join(unknown)} is not implemented.")
    if "://" in str(uri) or str(uri).startswith("azureml:"):
        raise MLTableError(f"'{uri}' is not on this machine. Declare it as an input of the job (type mltable).")
    return MLTable(Definition.load(Path(uri)))


def from_delimited_files(paths: Sequence[Mapping[str, str]], **options: Any) -> MLTable:
    """Delimited text; the options are those of `read_delimited`."""
    return _read(paths, "read_delimited", {"infer_column_types": True, "header": "all_files_same_headers", **options})


def from_parquet_files(paths: Sequence[Mapping[str, str]], include_path_column: bool = False) -> MLTable:
    return _read(paths, "read_parquet", {"include_path_column": include_path_column})


def from_json_lines_files(paths: Sequence[Mapping[str, str]], **options: Any) -> MLTable:
    """JSON lines; the options are those of `read_json_lines`."""
    return _read(paths, "read_json_lines", options)


def from_delta_lake(delta_table_uri: str, **options: Any) -> MLTable:
    """A Delta table as of `version_as_of` or `timestamp_as_of`."""
    return _read([{"folder": delta_table_uri}], "read_delta_lake", options)


def from_paths(paths: Sequence[Mapping[str, str]]) -> MLTable:
    raise MLTableError("from_paths makes a table of streams, which is not implemented; use from_delimited_files, "
                       "from_parquet_files, from_json_lines_files or from_delta_lake.")  # fmt: skip


def _read(paths: Sequence[Mapping[str, str]], reader: str, options: Mapping[str, Any]) -> MLTable:
    content = {"paths": [dict(path) for path in paths], "transformations": [{reader: dict(options)}]}
    return MLTable(Definition.of(content, Path.cwd()))


def _names(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)
