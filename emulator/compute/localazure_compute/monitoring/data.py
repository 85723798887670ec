"""Production and reference data as tables.

Production data is what the model data collector wrote, JSON lines filed by time; other data would need a preprocessing
component on Azure. https://learn.microsoft.com/azure/machine-learning/how-to-monitor-model-performance
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from localazure_compute.mltable import Definition, frame_of

#: Added to collected rows: `<correlationid>_<position in the event>`, what outcomes are joined on.
CORRELATION = "correlationid"
_FILED = re.compile(r"(?:^|/)(\d{4})(?:/(\d{2}))?(?:/(\d{2}))?(?:/(\d{2}))?(?:/\d{2})?/[^/]+\.jsonl$")
#: Whole numbers of which fewer are distinct, as a share of the rows, are codes.
_DISTINCT = 0.05
_COLLECTIONS = frozenset({"model_inputs", "model_outputs"})


class NoData(Exception):
    """Nothing that could be compared; the message says where and why."""


def table(data: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one side. Raises NoData.

    :param data: `localazure.executors.monitor_plan`'s, with `path` for where it is on this machine.
    """
    path = Path(data["path"])
    first, last = (datetime.fromisoformat(data[key]) if data.get(key) else None for key in ("from", "until"))
    if data["jobInputType"] == "mltable":
        if first is not None:
            raise NoData(f"{data['uri']} is an MLTable: only what the data collector wrote has times to cut it by")
        found = frame_of(Definition.load(path))
    else:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        collected = [file for file in files if file.suffix == ".jsonl"]
        if collected:
            found = pd.DataFrame(_rows(path, collected, str(data.get("context") or ""), first, last))
        elif first is not None:
            raise NoData(
                f"{data['uri']} holds nothing that the data collector wrote (.jsonl); on Azure other data needs a "
                "preprocessing component, which cuts it by time"
            )
        else:
            found = _tables(path, files)
    if found.empty:
        window = f" from {data['from']} to {data['until']}" if first is not None else ""
        raise NoData(f"No data was found in {data['uri']}{window}")
    return found


def _tables(path: Path, files: list[Path]) -> pd.DataFrame:
    readers = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    parts = [readers[file.suffix](file) for file in files if file.suffix in readers]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _rows(
    root: Path, files: list[Path], context: str, first: datetime | None, last: datetime | None
) -> Iterator[dict[str, Any]]:
    """Rows of the events from `first` until before `last`; of the collection that `context` names, where folders do."""
    others = _COLLECTIONS - {context} if context in _COLLECTIONS else frozenset()
    for file in files:
        shown = file.relative_to(root).as_posix() if file != root else file.name
        if others & set(shown.split("/")) or not _may_hold(shown, first, last):
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
                rows = event["data"] if isinstance(event["data"], list) else [event["data"]]
                time = datetime.fromisoformat(event["time"])
            except (ValueError, KeyError, TypeError):
                if line.strip():
                    print(f"{shown}: a line is no collected event and was left out")
                continue
            if (first is not None and time < first) or (last is not None and time >= last):
                continue
            key = event.get("correlationid", "")
            yield from ({**row, CORRELATION: f"{key}_{at}"} for at, row in enumerate(rows))


def _may_hold(path: str, first: datetime | None, last: datetime | None) -> bool:
    found = _FILED.search(path)
    if found is None or first is None or last is None:
        return True
    parts = tuple(int(part) for part in found.groups() if part)

    def cut(moment: datetime) -> tuple[int, ...]:
        utc = moment.astimezone(UTC)
        return (utc.year, utc.month, utc.day, utc.hour)[: len(parts)]

    return cut(first) <= parts <= cut(last)


def common(
    production: pd.DataFrame, reference: pd.DataFrame, wanted: list[str] | None, *, typed: bool = True
) -> list[str]:
    """The columns to compare: those of the reference that production has, or of `wanted`; `typed`: only those with the
    same kind of values on both sides. What is left out is said. Raises NoData if nothing is left.
    """
    found = []
    for name in wanted or [str(column) for column in reference.columns if column != CORRELATION]:
        if name not in reference or name not in production:
            side = "reference" if name not in reference else "production"
            print(f"column {name}: the {side} data doesn't have it; left out")
        elif typed and len({_kind(reference[name]), _kind(production[name])} - {""}) > 1:
            print(f"column {name}: {_kind(reference[name])} in the reference, {_kind(production[name])} in production")
        else:
            found.append(name)
    if not found:
        raise NoData("Found no common columns between input datasets: same names (case-sensitive) and similar types")
    return found


def _kind(column: pd.Series) -> str:
    """What its values are; empty if there is none."""
    present = column.dropna()
    if not len(present):
        return ""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return "number"
    return "boolean" if present.map(type).eq(bool).all() else "text"


def is_categorical(column: pd.Series, override: str | None) -> bool:
    """As the service tells: text and booleans are, real numbers aren't, whole numbers if few of them are distinct."""
    if override is not None:
        return override == "Categorical"
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return True
    if not pd.api.types.is_integer_dtype(column):
        return False
    return bool(column.nunique() / max(len(column), 1) < _DISTINCT)
