"""What Azure ML's data collector wrote: JSON lines, one event a line, whose `data` holds rows.

https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data#collected-data: files lie below
`modelDataCollector/<endpoint>/<deployment>/<collection>/<yyyy>/<MM>/<dd>/<HH>/<instance>.jsonl`, or as many parts
of the date as the deployment's `rolling_rate` asks for. Times are UTC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd

#: How the ids of the roll-out's own requests begin. What they asked is no caller's.
_PROBE = "azflow-probe-"
#: Year, and as many of month and day as a file's folders have.
_DATE = re.compile(r"(?:^|/)(\d{4})(?:/(\d{2})(?:/(\d{2}))?)?(?:/\d{2}){0,2}/[^/]+\.jsonl$")


@dataclass(frozen=True)
class Days:
    """Days, both inclusive, in UTC."""

    first: date
    last: date

    def may_hold(self, path: str) -> bool:
        """Whether a file of that path can hold events of these days; one without a date in its path can."""
        found = _DATE.search(path)
        if found is None:
            return True
        parts = tuple(int(part) for part in found.groups() if part)
        first, last = ((day.year, day.month, day.day)[: len(parts)] for day in (self.first, self.last))
        return first <= parts <= last

    def __contains__(self, moment: object) -> bool:
        return isinstance(moment, datetime) and self.first <= moment.date() <= self.last


def rows(folder: Path, collection: str = "", days: Days | None = None) -> pd.DataFrame:
    """The rows of all events below `folder`, of one collection where the folders name it, and of `days`.

    An event without a time that can be read belongs to the day of its file. The roll-out's own requests are left out,
    where the scoring script collects them under their id. Files that hold lines which are no events
    (one was cut off in mid-write) are named.
    """
    found: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*.jsonl")) if folder.is_dir() else [folder]:
        shown = path.relative_to(folder).as_posix() if path != folder else path.name
        others = {"model_inputs", "model_outputs", "request", "response"} - {collection}
        if (collection and others & set(shown.split("/"))) or (days is not None and not days.may_hold(shown)):
            continue
        for event in _events(path, shown):
            if any(str(event.get(name, "")).startswith(_PROBE) for name in ("correlationid", "xrequestid")):
                continue
            if days is not None and (time := _time(event)) is not None and time not in days:
                continue
            data = event["data"]
            found += data if isinstance(data, list) else [data]
    return pd.DataFrame(found)


def _events(path: Path, shown: str) -> Iterator[dict[str, Any]]:
    broken = 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                event = json.loads(line)
                data = event["data"]
                if not all(isinstance(row, dict) for row in (data if isinstance(data, list) else [data])):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                broken += bool(line.strip())
                continue
            yield event
    if broken:
        print(f"{shown}: {broken} line(s) are no collected event and were left out")


def _time(event: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return None
