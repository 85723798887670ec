"""What a serverless pool's queries took from the storage, and the budgets for a day, a week and a month.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/data-processed
Kept in the pool's file, a row a day. Days, weeks (from Monday) and months are UTC's; the vendor doesn't say whose.
"""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta

import duckdb

from localazure.sql.results import SqlError
from localazure.sql.scans import Usage

MEGABYTE = 1 << 20
_LEAST = 10
_MEGABYTES_OF_A_TERABYTE = 1 << 20
UNLIMITED = 2147483647
PERIODS = ("daily", "weekly", "monthly")
# https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/database-engine-events-and-errors: 15848;
# the number of the refusal isn't published, its text is on the page above.
_INVALID_LIMIT = 15848
_REFUSED = 15802


def megabytes(count: int) -> int:
    """Bytes as the vendor shows them: rounded up."""
    return -(-count // MEGABYTE)


def charged(usage: Usage) -> int:
    """Megabytes of one query: all it read, moved and wrote, rounded up, and ten at least."""
    return max(_LEAST, megabytes(usage.scanned + usage.moved + usage.written))


class Ledger:
    """Thread-safe. One a serverless pool."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._cursor = connection.cursor()
        self._lock = threading.Lock()
        self._cursor.execute('CREATE SCHEMA IF NOT EXISTS "$catalog"')
        self._cursor.execute('CREATE TABLE IF NOT EXISTS "$catalog".processed (day DATE, megabytes BIGINT)')
        self._cursor.execute('CREATE TABLE IF NOT EXISTS "$catalog".budgets (period VARCHAR, terabytes BIGINT)')

    def add(self, count: int) -> None:
        """Charge ``count`` megabytes to today."""
        with self._lock:
            today = _today()
            self._cursor.execute(
                'UPDATE "$catalog".processed SET megabytes = megabytes + ? WHERE day = ?', [count, today]
            )
            if not self._cursor.execute('SELECT 1 FROM "$catalog".processed WHERE day = ?', [today]).fetchall():
                self._cursor.execute('INSERT INTO "$catalog".processed VALUES (?, ?)', [today, count])

    def used(self) -> dict[str, int]:
        """Megabytes of the current day, week and month."""
        today = _today()
        begins = {
            "daily": today,
            "weekly": today - timedelta(days=today.weekday()),
            "monthly": today.replace(day=1),
        }
        with self._lock:
            return {
                period: int(
                    self._cursor.execute(
                        'SELECT coalesce(sum(megabytes), 0) FROM "$catalog".processed WHERE day >= ?', [begin]
                    ).fetchall()[0][0]
                )
                for period, begin in begins.items()
            }

    def limits(self) -> dict[str, int]:
        """Terabytes; UNLIMITED where none was set."""
        with self._lock:
            rows = self._cursor.execute('SELECT period, terabytes FROM "$catalog".budgets').fetchall()
        return {period: UNLIMITED for period in PERIODS} | {str(period): int(limit) for period, limit in rows}

    def limit(self, period: str, terabytes: object, line: int) -> None:
        """sp_set_data_processed_limit."""
        if period.lower() not in PERIODS:
            raise SqlError(
                214,
                "Procedure expects parameter '@type' of type 'nvarchar': 'daily', 'weekly' or 'monthly'.",
                line=line,
            )
        try:
            limit = int(str(terabytes))
        except ValueError:
            limit = -1
        if not 0 <= limit <= UNLIMITED:
            raise SqlError(
                _INVALID_LIMIT,
                "Cannot complete the sp_set_data_processed_limit stored procedure. Invalid limit value is specified. "
                "As a valid value should be considered anything between 0 and 2147483647.",
                line=line,
            )
        with self._lock:
            self._cursor.execute('DELETE FROM "$catalog".budgets WHERE period = ?', [period.lower()])
            self._cursor.execute('INSERT INTO "$catalog".budgets VALUES (?, ?)', [period.lower(), limit])

    def check(self, line: int) -> None:
        """Refuse a query when a budget is used up; one that runs is never stopped."""
        used = None
        for period, limit in self.limits().items():
            if limit == UNLIMITED:
                continue
            used = used or self.used()
            if used[period] >= limit * _MEGABYTES_OF_A_TERABYTE:
                raise SqlError(
                    _REFUSED,
                    "Query is rejected because SQL Serverless budget limit for a period is exceeded. (Period = "
                    f"{period.capitalize()}: Limit = {limit} TB, Data processed = "
                    f"{used[period] // _MEGABYTES_OF_A_TERABYTE} TB))",
                    line=line,
                )


def _today() -> date:
    return datetime.now(UTC).date()
