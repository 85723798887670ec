"""Dynamic management views and the lists of settings: what ran, who is connected, which external objects there are.

https://learn.microsoft.com/en-us/sql/relational-databases/system-dynamic-management-views/sql-and-parallel-data-warehouse-dynamic-management-views
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from localazure.sql import node_views, security_views, serverless_views, workload
from localazure.sql.catalog import View
from localazure.sql.requests import Request
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.pool import Session

COLLATION = "SQL_Latin1_General_CP1_CI_AS"

Rows = Iterable[tuple[Any, ...]]


def _requests(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "request_id nvarchar(32), session_id nvarchar(32), status nvarchar(32), submit_time datetime, "
        "start_time datetime, end_compile_time datetime, end_time datetime, total_elapsed_time int, "
        "label nvarchar(255), error_id nvarchar(36), database_id int, command nvarchar(4000), "
        "resource_class nvarchar(20), importance nvarchar(128), group_name sysname, classifier_name sysname, "
        "resource_allocation_percentage decimal(5,2), result_cache_hit int, "
        "client_correlation_id nvarchar(255), row_count bigint"
    )
    found = []
    for request in session.pool.engine.requests.rows():
        ended = request.ended or datetime.now(UTC).replace(tzinfo=None)
        elapsed = int((ended - request.submitted).total_seconds() * 1000)
        found.append(
            (
                request.request_id,
                request.session_id,
                request.status,
                request.submitted,
                request.submitted,
                request.compiled,
                request.ended,
                elapsed,
                request.label,
                request.error_id,
                session.pool.number,
                request.command,
                request.group if request.classifier is None else None,
                request.importance,
                request.group,
                request.classifier,
                Decimal(str(request.percent)),
                request.cache,
                None,
                request.rows,
            )
        )
    return spec, found


def _steps(session: Session) -> tuple[Spec, Rows]:
    """One machine runs a statement in one step."""
    spec: Spec = declare(
        "request_id nvarchar(32), step_index int, operation_type nvarchar(35), "
        "distribution_type nvarchar(32), location_type nvarchar(32), status nvarchar(32), "
        "error_id nvarchar(36), start_time datetime, end_time datetime, total_elapsed_time int, "
        "row_count bigint, command nvarchar(4000)"
    )
    found = []
    for request in session.pool.engine.requests.rows():
        if request is session.request:
            continue  # the query that asks
        ended = request.ended or datetime.now(UTC).replace(tzinfo=None)
        elapsed = int((ended - request.submitted).total_seconds() * 1000)
        found.append(
            (
                request.request_id,
                0,
                "ReturnOperation" if request.kind == "QueryStatement" else "OnOperation",
                "Unspecified",
                "Control",
                "Complete" if request.status == "Completed" else request.status,
                request.error_id,
                request.submitted,
                request.ended,
                elapsed,
                -1 if request.rows is None else request.rows,
                request.command,
            )
        )
    return spec, found


def _pdw_sessions(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "session_id nvarchar(32), status nvarchar(10), request_id nvarchar(32), security_id varbinary(85), "
        "login_name sysname, login_time datetime, query_count int, is_transactional bit, "
        "client_id nvarchar(255), app_name nvarchar(255), sql_spid int"
    )
    counts: dict[str, int] = {}
    last: dict[str, Request] = {}
    for request in session.pool.engine.requests.rows():
        counts[request.session_id] = counts.get(request.session_id, 0) + 1
        last[request.session_id] = request
    found = [
        (
            f"SID{spid}",
            "Active" if _busy(last.get(f"SID{spid}")) else "Idle",
            last[f"SID{spid}"].request_id if f"SID{spid}" in last else None,
            None,
            other.login,
            _time(other.login_time),
            counts.get(f"SID{spid}", 0),
            other.transaction_count > 0,
            other.host,
            other.application,
            spid,
        )
        for spid, other in list(session.pool.engine.sessions.items())
    ]
    return spec, found


def _busy(request: Request | None) -> bool:
    return request is not None and request.ended is None


def _errors(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "error_id nvarchar(36), source nvarchar(64), type nvarchar(4000), create_time datetime, pdw_node_id int, "
        "session_id nvarchar(32), request_id nvarchar(32), spid int, thread_id int, details nvarchar(4000)"
    )
    return spec, [
        (
            request.error_id,
            "localazure",
            f"SqlError {request.error_number}",
            request.ended,
            1,
            request.session_id,
            request.request_id,
            None,
            None,
            request.error,
        )
        for request in session.pool.engine.requests.rows()
        if request.error_id is not None
    ]


def _sql_requests(session: Session) -> tuple[Spec, Rows]:
    """What each step ran on a distribution: one machine has one."""
    spec = declare(
        "request_id nvarchar(32), step_index int, pdw_node_id int, distribution_id int, status nvarchar(32), "
        "error_id nvarchar(36), start_time datetime, end_time datetime, total_elapsed_time int, row_count bigint, "
        "spid int, command nvarchar(4000)"
    )
    found = []
    for request in session.pool.engine.requests.rows():
        ended = request.ended or datetime.now(UTC).replace(tzinfo=None)
        found.append(
            (
                request.request_id,
                0,
                1,
                1,
                "Complete" if request.status == "Completed" else request.status,
                request.error_id,
                request.submitted,
                request.ended,
                int((ended - request.submitted).total_seconds() * 1000),
                -1 if request.rows is None else request.rows,
                int(request.session_id[3:]),
                request.command,
            )
        )
    return spec, found


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _exec_sessions(session: Session) -> tuple[Spec, Rows]:
    """transaction_isolation_level 1: a dedicated pool reads uncommitted by default; SQLAlchemy asks for it."""
    spec: Spec = declare(
        "session_id smallint, login_time datetime, host_name sysname, program_name sysname, "
        "login_name sysname, status nvarchar(30), transaction_isolation_level smallint, "
        "database_id smallint, is_user_process bit, open_transaction_count int, row_count bigint"
    )
    found = [
        (
            spid,
            _time(other.login_time),
            other.host,
            other.application,
            other.login,
            "running" if other is session else "sleeping",
            2,
            5,
            True,
            other.transaction_count,
            other.row_count,
        )
        for spid, other in list(session.pool.engine.sessions.items())
        if _shown(session, spid)
    ]
    return spec, found


def _shown(session: Session, spid: int) -> bool:
    """Whoever lacks VIEW DATABASE STATE sees its own session."""
    access = session.access()
    return spid == session.spid or access is None or access.on_database("VIEW DATABASE STATE")


def _running(session: Session) -> tuple[Spec, Rows]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-dynamic-management-views/sys-dm-exec-requests-transact-sql"""
    spec = declare(
        "session_id smallint, request_id int, start_time datetime, status nvarchar(30), command nvarchar(32), "
        "database_id smallint, wait_type nvarchar(60), cpu_time int, total_elapsed_time int, row_count bigint, "
        "dist_statement_id uniqueidentifier"
    )
    now = datetime.now(UTC).replace(tzinfo=None)
    return spec, [
        (
            int(request.session_id[3:]),
            0,
            request.submitted,
            "running",
            request.command.split(None, 1)[0].upper()[:32] if request.command.strip() else "",
            session.pool.number,
            None,
            0,
            int((now - request.submitted).total_seconds() * 1000),
            request.rows or 0,
            request.statement_id.strip("{}"),
        )
        for request in session.pool.engine.requests.rows()
        if request.ended is None and _shown(session, int(request.session_id[3:]))
    ]


def _connections(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "session_id int, net_transport sysname, encrypt_option sysname, auth_scheme sysname, protocol_type sysname"
    )
    return spec, [
        (spid, "TCP", "TRUE", "SQL", "TSQL") for spid in list(session.pool.engine.sessions) if _shown(session, spid)
    ]


def _databases(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "name sysname, database_id int, source_database_id int, create_date datetime, "
        "compatibility_level tinyint, collation_name sysname, user_access tinyint, "
        "user_access_desc nvarchar(60), is_read_only bit, state tinyint, state_desc nvarchar(60), "
        "snapshot_isolation_state tinyint, snapshot_isolation_state_desc nvarchar(60), "
        "is_read_committed_snapshot_on bit, recovery_model tinyint, recovery_model_desc nvarchar(60), "
        "is_result_set_caching_on bit, containment tinyint"
    )
    made = datetime(2024, 1, 1)

    def row(name: str, number: int, collation: str) -> tuple[Any, ...]:
        return (
            name,
            number,
            None,
            made,
            160,
            collation,
            0,
            "MULTI_USER",
            False,
            0,
            "ONLINE",
            0,
            "OFF",
            False,
            3,
            "SIMPLE",
            cached,
            0,
        )

    setting = session.pool.catalog.setting("OPTION", "RESULT_SET_CACHING")
    cached = setting is not None and setting.options.get("VALUE") == "ON"
    return spec, [row(*database) for database in session.pool.databases()]


def _settings(
    kind: str, spec: Spec, row: Callable[[str, int, dict[str, str]], tuple[Any, ...]]
) -> Callable[[Session], tuple[Spec, Rows]]:
    def make(session: Session) -> tuple[Spec, Rows]:
        found = [s for s in list(session.pool.catalog.settings.values()) if s.kind.lower() == kind]
        return spec, [row(s.name, s.object_id, s.options) for s in found]

    return make


_SOURCES: Spec = declare(
    "data_source_id int, name sysname, location nvarchar(4000), type_desc nvarchar(255), type tinyint, "
    "resource_manager_location nvarchar(4000), credential_id int, database_name sysname, "
    "shard_map_name sysname, pushdown nvarchar(256)"
)
_FORMATS: Spec = declare(
    "file_format_id int, name sysname, format_type nvarchar(100), field_terminator nvarchar(10), "
    "string_delimiter nvarchar(10), date_format nvarchar(50), use_type_default bit, "
    "serde_method nvarchar(255), row_terminator nvarchar(10), encoding nvarchar(10), "
    "data_compression nvarchar(255), first_row int"
)


def _format_row(name: str, number: int, o: dict[str, str]) -> tuple[Any, ...]:
    first = o.get("FORMAT_OPTIONS.FIRST_ROW")
    return (
        number,
        name,
        o.get("FORMAT_TYPE"),
        o.get("FORMAT_OPTIONS.FIELD_TERMINATOR"),
        o.get("FORMAT_OPTIONS.STRING_DELIMITER"),
        o.get("FORMAT_OPTIONS.DATE_FORMAT"),
        o.get("FORMAT_OPTIONS.USE_TYPE_DEFAULT", "").upper() == "TRUE",
        None,
        None,
        o.get("FORMAT_OPTIONS.ENCODING"),
        o.get("DATA_COMPRESSION"),
        int(first) if first else None,
    )


def _materialized(session: Session) -> tuple[Spec, Rows]:
    spec = declare("object_id int, physical_name nvarchar(36), distribution_policy_desc nvarchar(60), is_disabled bit")
    return spec, [
        (entry.object_id, f"MV_{entry.object_id:08x}", entry.distribution.split(",")[0], entry.disabled)
        for entry in session.pool.catalog.objects.values()
        if isinstance(entry, View) and entry.materialized
    ]


def _classifier_details(session: Session) -> tuple[Spec, Rows]:
    spec = declare("classifier_id int, classifier_type nvarchar(255), classifier_value nvarchar(255)")
    kinds = {"MEMBERNAME": "membername", "WLM_LABEL": "wlm_label", "WLM_CONTEXT": "wlm_context",
             "START_TIME": "start_time", "END_TIME": "end_time"}  # fmt: skip
    return spec, [
        (setting.object_id, kind, setting.options[key])
        for setting in session.pool.catalog.settings.values()
        if setting.kind == workload.CLASSIFIER
        for key, kind in kinds.items()
        if key in setting.options
    ]


def _empty(spec: Spec) -> Callable[[Session], tuple[Spec, Rows]]:
    return lambda session: (spec, [])


VIEWS: dict[str, Callable[[Session], tuple[Spec, Rows]]] = {
    "sys.dm_pdw_exec_requests": _requests,
    "sys.dm_pdw_request_steps": _steps,
    "sys.dm_pdw_exec_sessions": _pdw_sessions,
    "sys.dm_exec_sessions": _exec_sessions,
    "sys.dm_pdw_nodes_exec_sessions": _exec_sessions,
    "sys.dm_exec_connections": _connections,
    "sys.dm_exec_requests": _running,
    "sys.databases": _databases,
    **security_views.VIEWS,
    **serverless_views.VIEWS,
    "sys.external_data_sources": _settings(
        "data source",
        _SOURCES,
        lambda name, number, o: (
            number,
            name,
            o.get("LOCATION"),
            o.get("TYPE", "HADOOP").upper(),
            0,
            None,
            None,
            None,
            None,
            "ON",
        ),
    ),
    "sys.external_file_formats": _settings("file format", _FORMATS, _format_row),
    "sys.database_scoped_credentials": _settings(
        "database scoped credential",
        declare(
            "name sysname, principal_id int, credential_id int, credential_identity nvarchar(4000), "
            "create_date datetime, modify_date datetime, target_type sysname, target_id int"
        ),
        lambda name, number, o: (
            name,
            1,
            number,
            next((v for k, v in o.items() if k.endswith("IDENTITY")), None),
            None,
            None,
            None,
            None,
        ),
    ),
    "sys.pdw_materialized_view_mappings": _materialized,
    "sys.symmetric_keys": _settings(
        "master key",
        declare("name sysname, principal_id int, symmetric_key_id int, key_length int, algorithm_desc sysname"),
        lambda name, number, o: (name, 1, 101, 256, "AES_256"),
    ),
    "sys.workload_management_workload_groups": _settings(
        "workload group",
        declare(
            "group_id int, name sysname, importance nvarchar(128), min_percentage_resource tinyint, "
            "cap_percentage_resource tinyint, request_min_resource_grant_percent decimal(5,2), "
            "request_max_resource_grant_percent decimal(5,2), query_execution_timeout_sec int, create_time datetime, "
            "modify_time datetime"
        ),
        lambda name, number, o: (
            number,
            name,
            o.get("IMPORTANCE", "normal").lower(),
            int(o["MIN_PERCENTAGE_RESOURCE"]),
            int(o["CAP_PERCENTAGE_RESOURCE"]),
            Decimal(o["REQUEST_MIN_RESOURCE_GRANT_PERCENT"]),
            Decimal(o.get("REQUEST_MAX_RESOURCE_GRANT_PERCENT", o["REQUEST_MIN_RESOURCE_GRANT_PERCENT"])),
            int(o.get("QUERY_EXECUTION_TIMEOUT_SEC", "0")),
            None,
            None,
        ),
    ),
    "sys.workload_management_workload_classifiers": _settings(
        "workload classifier",
        declare("classifier_id int, name sysname, group_name sysname, importance nvarchar(128), is_enabled bit"),
        lambda name, number, o: (number, name, o["WORKLOAD_GROUP"], o.get("IMPORTANCE", "normal").lower(), True),
    ),
    "sys.workload_management_workload_classifier_details": _classifier_details,
    "sys.dm_pdw_waits": _empty(
        declare("wait_id bigint, session_id nvarchar(32), request_id nvarchar(32), type sysname, state sysname")
    ),
    "sys.dm_pdw_errors": _errors,
    "sys.dm_pdw_sql_requests": _sql_requests,
    **node_views.VIEWS,
    "sys.synonyms": _empty(declare("name sysname, object_id int, schema_id int, base_object_name nvarchar(4000)")),
    "sys.sequences": _empty(
        declare("name sysname, object_id int, schema_id int, start_value bigint, increment bigint")
    ),
    "sys.foreign_keys": _empty(
        declare(
            "name sysname, object_id int, schema_id int, parent_object_id int, referenced_object_id int, "
            "key_index_id int, is_disabled bit, delete_referential_action_desc sysname, "
            "update_referential_action_desc sysname, is_system_named bit, delete_referential_action tinyint, "
            "update_referential_action tinyint"
        )
    ),
    "sys.foreign_key_columns": _empty(
        declare(
            "constraint_object_id int, constraint_column_id int, parent_object_id int, parent_column_id int, "
            "referenced_object_id int, referenced_column_id int"
        )
    ),
    "sys.check_constraints": _empty(
        declare("name sysname, object_id int, schema_id int, parent_object_id int, definition nvarchar(4000)")
    ),
    "sys.extended_properties": _empty(
        declare("class tinyint, class_desc sysname, major_id int, minor_id int, name sysname, value nvarchar(4000)")
    ),
    "sys.triggers": _empty(declare("name sysname, object_id int, parent_id int")),
    "information_schema.referential_constraints": _empty(
        declare(
            "CONSTRAINT_CATALOG sysname, CONSTRAINT_SCHEMA sysname, CONSTRAINT_NAME sysname, "
            "UNIQUE_CONSTRAINT_CATALOG sysname, UNIQUE_CONSTRAINT_SCHEMA sysname, "
            "UNIQUE_CONSTRAINT_NAME sysname, MATCH_OPTION sysname, UPDATE_RULE sysname, DELETE_RULE sysname"
        )
    ),
    "information_schema.parameters": _empty(
        declare("SPECIFIC_SCHEMA sysname, SPECIFIC_NAME sysname, PARAMETER_NAME sysname, DATA_TYPE sysname")
    ),
}
