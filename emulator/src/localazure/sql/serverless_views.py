"""Views of a serverless pool: what was processed, the budgets, and the queries that ran.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/data-processed
https://learn.microsoft.com/en-us/sql/relational-databases/system-catalog-views/sys-configurations-transact-sql
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from localazure.sql.processed import PERIODS, UNLIMITED
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.session import Session

Rows = Iterable[tuple[Any, ...]]
_FIRST_CONFIGURATION = 1595


def _processed(session: Session) -> tuple[Spec, Rows]:
    spec = declare("type nvarchar(32), data_processed_mb bigint")
    server = session.pool.server
    used = dict.fromkeys(PERIODS, 0) if server is None else server.ledger.used()
    return spec, list(used.items())


def _configurations(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "configuration_id int, name nvarchar(35), value int, minimum int, maximum int, value_in_use int, "
        "description nvarchar(255), is_dynamic bit, is_advanced bit"
    )
    server = session.pool.server
    limits = {} if server is None else server.ledger.limits()
    return spec, [
        (
            number,
            f"Data processed {period} limit in TB",
            limits[period],
            0,
            UNLIMITED,
            limits[period],
            f"SQL On-demand data processed {period} limit in TB",
            True,
            False,
        )
        for number, period in enumerate(PERIODS, _FIRST_CONFIGURATION)
        if period in limits
    ]


def _history(session: Session) -> tuple[Spec, Rows]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-dynamic-management-views/sys-dm-exec-requests-history-transact-sql"""
    spec = declare(
        "status varchar(30), transaction_id bigint, distributed_statement_id nvarchar(64), query_hash nvarchar(64), "
        "login_name sysname, start_time datetime2, end_time datetime2, command nvarchar(32), "
        "query_text nvarchar(4000), total_elapsed_time_ms bigint, data_processed_mb bigint, error nvarchar(4000), "
        "error_code int, rejected_rows_path nvarchar(1024)"
    )
    found = []
    for request in session.pool.engine.requests.rows() if session.pool.server is not None else []:
        if request.ended is None:
            continue
        found.append(
            (
                "Succeeded" if request.status == "Completed" else request.status,
                None,
                request.statement_id,
                request.query_hash,
                request.login,
                request.submitted,
                request.ended,
                request.command.split(None, 1)[0].upper()[:32] if request.command.strip() else "",
                request.command,
                int((request.ended - request.submitted).total_seconds() * 1000),
                request.processed,
                request.error,
                request.error_number,
                None,
            )
        )
    return spec, found


VIEWS: dict[str, Callable[[Session], tuple[Spec, Rows]]] = {
    "sys.dm_external_data_processed": _processed,
    "sys.configurations": _configurations,
    "sys.dm_exec_requests_history": _history,
}
