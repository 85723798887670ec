"""include/ as the operators see it: SQL templates rendered for a sample night."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from azflow.specs import Night

INCLUDE = Path(__file__).resolve().parents[2] / "include"
SQL = INCLUDE / "sql"
SQL_FILES = sorted(path.relative_to(SQL).as_posix() for path in SQL.rglob("*.sql"))

FIRST_NIGHT = Night.of("nightly_retraining__flight_delay", "first", date(2013, 3, 8), date(2013, 1, 1))
AZURE = {
    "lake_url": "https://azflowlake.dfs.core.windows.net/lake",
    "lake_abfss_url": "abfss://lake@azflowlake.dfs.core.windows.net",
    "container": "lake",
}
# As the operator renders: an undefined variable is an error, imports are found below include/sql.
_ENVIRONMENT = Environment(undefined=StrictUndefined, loader=FileSystemLoader(SQL), keep_trailing_newline=True)


def render(file: str, night: Night = FIRST_NIGHT, azure: Mapping[str, str] = AZURE) -> str:
    """The text of an SQL file for a night."""
    return _ENVIRONMENT.from_string((SQL / file).read_text()).render(night=night, azure=azure, model="flight_delay")
