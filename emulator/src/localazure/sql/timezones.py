"""Windows' names of time zones, which AT TIME ZONE takes, to IANA's."""

from __future__ import annotations

from localazure.core import timezones
from localazure.sql.results import SqlError


def iana(name: str, line: int) -> str:
    """The IANA zone; SqlError 9820 for a name that Windows doesn't have."""
    found = timezones.iana(name)
    if found is None:
        raise SqlError(9820, f"The time zone parameter '{name}' provided to AT TIME ZONE clause is invalid.", line=line)
    return found
