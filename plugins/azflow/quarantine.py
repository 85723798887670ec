"""Rows that break a rule are moved out of a dedicated pool's table, whole and with the rule that each broke.

The quarantine is a table beside the checked one: its columns, then ``quarantine_suite``, ``quarantine_rule``,
``quarantine_night`` and ``quarantined_at`` (UTC). A row that breaks several rules stands there once a rule. What is
moved is decided by the checked table's key; a night that builds its rows anew has them judged anew, and a task that is
tried again finds the moved rows where they are: moving is one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from azflow.errors import ConfigurationError

_NAME = re.compile(r"^\w+$")
_TABLE = re.compile(r"^\w+\.\w+$")
_LONGEST_RULE = 400

#: Executes a statement in autocommit mode; answers the rows it selects.
Execute = Callable[[str], Sequence[Sequence[Any]]]

#: What the quarantine's table has beside the checked one's columns, and as what.
OWN_COLUMNS = {
    "quarantine_suite": "nvarchar(200)",
    "quarantine_rule": f"nvarchar({_LONGEST_RULE})",
    "quarantine_night": "nvarchar(100)",
    "quarantined_at": "datetime2(0)",
}


@dataclass(frozen=True)
class Quarantine:
    """Where the rows of `table` go that break a rule.

    :param table: the checked one, ``schema.table``.
    :param key: columns that tell its rows apart.
    :param into: the quarantine's table; it is made when the first row goes there.
    :param max_share: of the checked rows: if more would go, the data is broken and not a few of its rows.
    :raises ConfigurationError: the names aren't names.
    """

    table: str
    key: tuple[str, ...]
    into: str
    max_share: float

    def __post_init__(self) -> None:
        for name in (self.table, self.into):
            if not _TABLE.match(name):
                raise ConfigurationError(f"{name!r} is no name of a table; use schema.table.")
        if not self.key or not all(_NAME.match(name) for name in self.key):
            raise ConfigurationError(f"quarantine.key must be columns of {self.table}, not {list(self.key)}.")


@dataclass(frozen=True)
class BrokenRule:
    """A rule that rows broke.

    :param says: the rule, for people.
    :param rows: how many rows broke it.
    :param failing: a SELECT of the key over them.
    """

    says: str
    rows: int
    failing: str


@dataclass(frozen=True)
class Moved:
    """`rows` of `checked` were moved; or, where `refused` says why, none."""

    rows: int
    checked: int
    refused: str = ""


@dataclass(frozen=True)
class Check:
    """Which check it was: the suite, the night's key, and the rows that were looked at.

    :param column: a date column; empty: the whole table was looked at.
    :param days: its first and last day, ISO.
    """

    suite: str
    night: str
    column: str = ""
    days: tuple[str, str] | None = None


def move(quarantine: Quarantine, rules: Sequence[BrokenRule], check: Check, execute: Execute) -> Moved:
    """Move the rows that break `rules` into the quarantine, all or nothing.

    :raises ConfigurationError: the quarantine's table has other columns than the checked one.
    """
    table = quarantine.table
    days = f" AND t.[{check.column}] BETWEEN '{check.days[0]}' AND '{check.days[1]}'" if check.days else ""
    every = "\nUNION ALL\n".join(rule.failing for rule in rules)
    checked = _number(execute(f"SELECT COUNT_BIG(*) AS n FROM {table} AS t WHERE 1 = 1{days}"))
    failing = _number(
        execute(f"SELECT COUNT_BIG(*) AS n FROM {table} AS t WHERE EXISTS ({_same(every, quarantine.key)}){days}")
    )
    if failing < max(rule.rows for rule in rules):
        return Moved(0, checked, f"rows among them have no key ({', '.join(quarantine.key)}), so that none was moved")
    if failing > quarantine.max_share * checked:
        return Moved(
            0,
            checked,
            f"{failing:,} of {checked:,} rows ({failing / checked:.2%}) would go into quarantine, more than max_share "
            f"({quarantine.max_share:.2%}); none was moved",
        )
    columns = _columns(quarantine, execute)
    listed = ", ".join(f"[{name}]" for name in columns)
    taken = ", ".join(f"t.[{name}]" for name in columns)
    within = days.replace("t.[", "[")
    execute("BEGIN TRANSACTION")
    try:
        # Rows that a night has built anew are judged anew; what an earlier try has moved isn't in the table any more.
        again = " AND ".join(f"t.[{name}] = {quarantine.into}.[{name}]" for name in quarantine.key)
        execute(f"DELETE FROM {quarantine.into} WHERE EXISTS (SELECT 1 FROM {table} AS t WHERE {again}{days})")
        gone = " AND ".join(f"q.[{name}] = {table}.[{name}]" for name in quarantine.key)
        for rule in rules:
            execute(
                f"INSERT INTO {quarantine.into} ({listed}, {_list(tuple(OWN_COLUMNS))})\n"
                f"SELECT {taken}, {_text(check.suite)}, {_text(rule.says[:_LONGEST_RULE])}, {_text(check.night)}, "
                f"CAST(SYSUTCDATETIME() AS datetime2(0))\n"
                f"FROM {table} AS t WHERE EXISTS ({_same(rule.failing, quarantine.key)}){days}"
            )
        execute(f"DELETE FROM {table} WHERE EXISTS (SELECT 1 FROM {quarantine.into} AS q WHERE {gone}){within}")
    except BaseException:
        execute("IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION")
        raise
    execute("COMMIT TRANSACTION")
    return Moved(failing, checked)


def _columns(quarantine: Quarantine, execute: Execute) -> list[str]:
    """The checked table's columns; makes the quarantine's table if it isn't there."""
    columns = _column_names(quarantine.table, execute)
    found = _column_names(quarantine.into, execute)
    if not found:
        own = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in OWN_COLUMNS.items())
        execute(
            f"CREATE TABLE {quarantine.into} WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS\n"
            f"SELECT t.*, {own} FROM {quarantine.table} AS t WHERE 1 = 0"
        )
    elif missing := [name for name in (*columns, *OWN_COLUMNS) if name.lower() not in {one.lower() for one in found}]:
        raise ConfigurationError(
            f"{quarantine.into} has no column {', '.join(missing)}, which rows of {quarantine.table} have now: rename "
            f"or drop {quarantine.into}; a new one is made."
        )
    return columns


def _column_names(table: str, execute: Execute) -> list[str]:
    schema, _, name = table.partition(".")
    rows = execute(
        "SELECT COLUMN_NAME FROM INFORMATION_SCHEMA.COLUMNS "
        f"WHERE TABLE_SCHEMA = {_text(schema)} AND TABLE_NAME = {_text(name)} ORDER BY ORDINAL_POSITION"
    )
    return [str(row[0]) for row in rows]


def _same(select: str, key: Sequence[str]) -> str:
    """A subquery that finds row t's key in `select`."""
    equal = " AND ".join(f"failing.[{name}] = t.[{name}]" for name in key)
    return f"SELECT 1 FROM ({select}) AS failing WHERE {equal}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"[{name}]" for name in names)


def _text(value: str) -> str:
    return "N'" + value.replace("'", "''") + "'"


def _number(rows: Sequence[Sequence[Any]]) -> int:
    return int(rows[0][0])
