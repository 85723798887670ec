"""Dynamic management views and the lists of settings: what ran, who is connected, which external objects there are.

https://learn.microsoft.com/en-us/sql/relational-databases/system-dynamic-management-views/sql-and-parallel-data-warehouse-dynamic-management-views
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from localazure.sql.results import SqlType

if TYPE_CHECKING:
    from localazure.sql.pool import Session

N = SqlType("nvarchar", 128)
N32 = SqlType("nvarchar", 32)
TEXT = SqlType("nvarchar", 4000)
INT = SqlType("int")
BIT = SqlType("bit")
BIG = SqlType("bigint")
TINY = SqlType("tinyint")
SMALL = SqlType("smallint")
MOMENT = SqlType("datetime")
COLLATION = "SQL_Latin1_General_CP1_CI_AS"

Spec = list[tuple[str, SqlType]]
Rows = Iterable[tuple[Any, ...]]


def _requests(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("request_id", N32), ("session_id", N32), ("status", N32), ("submit_time", MOMENT), ("start_time", MOMENT),
                  ("end_compile_time", MOMENT), ("end_time", MOMENT), ("total_elapsed_time", INT), ("label", SqlType("nvarchar", 255)),
                  ("error_id", SqlType("nvarchar", 36)), ("database_id", INT), ("command", TEXT), ("resource_class", SqlType("nvarchar", 20)),
                  ("importance", SqlType("nvarchar", 128)), ("group_name", N), ("classifier_name", N), ("resource_allocation_percentage", SqlType("decimal", precision=5, scale=2)),
                  ("result_cache_hit", INT), ("client_correlation_id", SqlType("nvarchar", 255)), ("row_count", BIG)]  # fmt: skip
    found = []
    for request in session.pool.requests.rows():
        ended = request.ended or datetime.now(UTC).replace(tzinfo=None)
        elapsed = int((ended - request.submitted).total_seconds() * 1000)
        found.append((request.request_id, request.session_id, request.status, request.submitted, request.submitted, request.submitted,
                      request.ended, elapsed, request.label, None, 5, request.command, "smallrc", "normal", "smallrc", None, None, 0, None,
                      request.rows))  # fmt: skip
    return spec, found


def _steps(session: Session) -> tuple[Spec, Rows]:
    """One machine runs a statement in one step."""
    spec: Spec = [("request_id", N32), ("step_index", INT), ("operation_type", SqlType("nvarchar", 35)), ("distribution_type", N32),
                  ("location_type", N32), ("status", N32), ("error_id", SqlType("nvarchar", 36)), ("start_time", MOMENT), ("end_time", MOMENT),
                  ("total_elapsed_time", INT), ("row_count", BIG), ("command", TEXT)]  # fmt: skip
    found = []
    for request in session.pool.requests.rows():
        if request.status == "Running":
            continue
        elapsed = int(((request.ended or request.submitted) - request.submitted).total_seconds() * 1000)
        found.append((request.request_id, 0, "OnOperation", "Unspecified", "Control", "Complete" if request.status == "Completed" else "Failed",
                      None, request.submitted, request.ended, elapsed, -1 if request.rows is None else request.rows, request.command))  # fmt: skip
    return spec, found


def _pdw_sessions(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("session_id", N32), ("status", SqlType("nvarchar", 10)), ("request_id", N32), ("security_id", SqlType("varbinary", 85)),
                  ("login_name", N), ("login_time", MOMENT), ("query_count", INT), ("is_transactional", BIT), ("client_id", SqlType("nvarchar", 255)),
                  ("app_name", SqlType("nvarchar", 255)), ("sql_spid", INT)]  # fmt: skip
    counts: dict[str, int] = {}
    for request in session.pool.requests.rows():
        counts[request.session_id] = counts.get(request.session_id, 0) + 1
    found = [
        (f"SID{spid}", "Active" if other is session else "Idle", None, None, other.login, _time(other.login_time),
         counts.get(f"SID{spid}", 0), other.transaction_count > 0, other.host, other.application, spid)
        for spid, other in list(session.pool.sessions.items())
    ]  # fmt: skip
    return spec, found


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _exec_sessions(session: Session) -> tuple[Spec, Rows]:
    """transaction_isolation_level 1: a dedicated pool reads uncommitted by default; SQLAlchemy asks for it."""
    spec: Spec = [("session_id", SMALL), ("login_time", MOMENT), ("host_name", N), ("program_name", N), ("login_name", N),
                  ("status", SqlType("nvarchar", 30)), ("transaction_isolation_level", SMALL), ("database_id", SMALL), ("is_user_process", BIT),
                  ("open_transaction_count", INT), ("row_count", BIG)]  # fmt: skip
    found = [
        (spid, _time(other.login_time), other.host, other.application, other.login, "running" if other is session else "sleeping", 2, 5, True,
         other.transaction_count, other.row_count)
        for spid, other in list(session.pool.sessions.items())
    ]  # fmt: skip
    return spec, found


def _connections(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("session_id", INT), ("net_transport", N), ("encrypt_option", N), ("auth_scheme", N), ("protocol_type", N)]
    return spec, [(spid, "TCP", "TRUE", "SQL", "TSQL") for spid in list(session.pool.sessions)]


def _databases(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("name", N), ("database_id", INT), ("source_database_id", INT), ("create_date", MOMENT), ("compatibility_level", TINY),
                  ("collation_name", N), ("user_access", TINY), ("user_access_desc", SqlType("nvarchar", 60)), ("is_read_only", BIT),
                  ("state", TINY), ("state_desc", SqlType("nvarchar", 60)), ("snapshot_isolation_state", TINY),
                  ("snapshot_isolation_state_desc", SqlType("nvarchar", 60)), ("is_read_committed_snapshot_on", BIT), ("recovery_model", TINY),
                  ("recovery_model_desc", SqlType("nvarchar", 60)), ("is_result_set_caching_on", BIT), ("containment", TINY)]  # fmt: skip
    made = datetime(2024, 1, 1)  # noqa: DTZ001  naive UTC as every datetime here

    def row(name: str, number: int) -> tuple[Any, ...]:
        return (name, number, None, made, 160, COLLATION, 0, "MULTI_USER", False, 0, "ONLINE", 0, "OFF", False, 3, "SIMPLE", False, 0)

    return spec, [row("master", 1), row(session.database, 5)]


def _principals(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("name", N), ("principal_id", INT), ("type", SqlType("char", 1)), ("type_desc", SqlType("nvarchar", 60)),
                  ("default_schema_name", N), ("authentication_type", INT), ("authentication_type_desc", SqlType("nvarchar", 60)),
                  ("is_fixed_role", BIT)]  # fmt: skip
    found: list[tuple[Any, ...]] = [("dbo", 1, "S", "SQL_USER", "dbo", 1, "INSTANCE", False)]
    for number, role in enumerate(("db_owner", "db_ddladmin", "db_datareader", "db_datawriter"), 16384):
        found.append((role, number, "R", "DATABASE_ROLE", None, 0, "NONE", True))
    kinds = {"user": ("E", "EXTERNAL_USER"), "role": ("R", "DATABASE_ROLE")}
    for setting in list(session.pool.catalog.settings.values()):
        if setting.kind.lower() in kinds:
            code, description = kinds[setting.kind.lower()]
            found.append((setting.name, setting.object_id, code, description, "dbo", 4, "EXTERNAL", False))
    return spec, found


def _settings(kind: str, spec: Spec, row: Callable[[str, int, dict[str, str]], tuple[Any, ...]]) -> Callable[[Session], tuple[Spec, Rows]]:
    def make(session: Session) -> tuple[Spec, Rows]:
        found = [s for s in list(session.pool.catalog.settings.values()) if s.kind.lower() == kind]
        return spec, [row(s.name, s.object_id, s.options) for s in found]

    return make


_SOURCES: Spec = [("data_source_id", INT), ("name", N), ("location", TEXT), ("type_desc", SqlType("nvarchar", 255)), ("type", TINY),
                  ("resource_manager_location", TEXT), ("credential_id", INT), ("database_name", N), ("shard_map_name", N),
                  ("pushdown", SqlType("nvarchar", 256))]  # fmt: skip
_FORMATS: Spec = [("file_format_id", INT), ("name", N), ("format_type", SqlType("nvarchar", 100)), ("field_terminator", SqlType("nvarchar", 10)),
                  ("string_delimiter", SqlType("nvarchar", 10)), ("date_format", SqlType("nvarchar", 50)), ("use_type_default", BIT),
                  ("serde_method", SqlType("nvarchar", 255)), ("row_terminator", SqlType("nvarchar", 10)), ("encoding", SqlType("nvarchar", 10)),
                  ("data_compression", SqlType("nvarchar", 255)), ("first_row", INT)]  # fmt: skip


def _format_row(name: str, number: int, o: dict[str, str]) -> tuple[Any, ...]:
    first = o.get("FORMAT_OPTIONS.FIRST_ROW")
    return (number, name, o.get("FORMAT_TYPE"), o.get("FORMAT_OPTIONS.FIELD_TERMINATOR"), o.get("FORMAT_OPTIONS.STRING_DELIMITER"),
            o.get("FORMAT_OPTIONS.DATE_FORMAT"), o.get("FORMAT_OPTIONS.USE_TYPE_DEFAULT", "").upper() == "TRUE", None, None,
            o.get("FORMAT_OPTIONS.ENCODING"), o.get("DATA_COMPRESSION"), int(first) if first else None)  # fmt: skip


def _data_processed(session: Session) -> tuple[Spec, Rows]:
    """Nothing is billed here."""
    return [("type", N), ("data_processed_mb", BIG)], [("daily", 0), ("weekly", 0), ("monthly", 0)]


def _empty(spec: Spec) -> Callable[[Session], tuple[Spec, Rows]]:
    return lambda session: (spec, [])


def _configurations(session: Session) -> tuple[Spec, Rows]:
    return [("configuration_id", INT), ("name", N), ("value", INT)], []


VIEWS: dict[str, Callable[[Session], tuple[Spec, Rows]]] = {
    "sys.dm_pdw_exec_requests": _requests,
    "sys.dm_pdw_request_steps": _steps,
    "sys.dm_pdw_exec_sessions": _pdw_sessions,
    "sys.dm_exec_sessions": _exec_sessions,
    "sys.dm_pdw_nodes_exec_sessions": _exec_sessions,
    "sys.dm_exec_connections": _connections,
    "sys.databases": _databases,
    "sys.database_principals": _principals,
    "sys.configurations": _configurations,
    "sys.dm_external_data_processed": _data_processed,
    "sys.external_data_sources": _settings(
        "data source", _SOURCES,
        lambda name, number, o: (number, name, o.get("LOCATION"), o.get("TYPE", "HADOOP").upper(), 0, None, None, None, None, "ON"),
    ),
    "sys.external_file_formats": _settings("file format", _FORMATS, _format_row),
    "sys.database_scoped_credentials": _settings(
        "database scoped credential",
        [("name", N), ("principal_id", INT), ("credential_id", INT), ("credential_identity", TEXT), ("create_date", MOMENT),
         ("modify_date", MOMENT), ("target_type", N), ("target_id", INT)],
        lambda name, number, o: (name, 1, number, next((v for k, v in o.items() if k.endswith("IDENTITY")), None), None, None, None, None),
    ),
    "sys.symmetric_keys": _settings(
        "master key", [("name", N), ("principal_id", INT), ("symmetric_key_id", INT), ("key_length", INT), ("algorithm_desc", N)],
        lambda name, number, o: (name, 1, 101, 256, "AES_256"),
    ),
    "sys.workload_management_workload_groups": _settings(
        "workload group", [("group_id", INT), ("name", N), ("importance", N)], lambda name, number, o: (number, name, "normal"),
    ),
    "sys.workload_management_workload_classifiers": _settings(
        "workload classifier", [("classifier_id", INT), ("name", N), ("is_enabled", BIT)], lambda name, number, o: (number, name, True),
    ),
    "sys.dm_pdw_waits": _empty([("wait_id", BIG), ("session_id", N32), ("request_id", N32), ("type", N), ("state", N)]),
    "sys.dm_pdw_errors": _empty([("error_id", N), ("session_id", N32), ("request_id", N32), ("details", TEXT)]),
    "sys.synonyms": _empty([("name", N), ("object_id", INT), ("schema_id", INT), ("base_object_name", TEXT)]),
    "sys.sequences": _empty([("name", N), ("object_id", INT), ("schema_id", INT), ("start_value", BIG), ("increment", BIG)]),
    "sys.foreign_keys": _empty([("name", N), ("object_id", INT), ("schema_id", INT), ("parent_object_id", INT), ("referenced_object_id", INT),
                                ("key_index_id", INT), ("is_disabled", BIT), ("delete_referential_action_desc", N),
                                ("update_referential_action_desc", N), ("is_system_named", BIT), ("delete_referential_action", TINY),
                                ("update_referential_action", TINY)]),
    "sys.foreign_key_columns": _empty([("constraint_object_id", INT), ("constraint_column_id", INT), ("parent_object_id", INT),
                                       ("parent_column_id", INT), ("referenced_object_id", INT), ("referenced_column_id", INT)]),
    "sys.check_constraints": _empty([("name", N), ("object_id", INT), ("schema_id", INT), ("parent_object_id", INT), ("definition", TEXT)]),
    "sys.extended_properties": _empty([("class", TINY), ("class_desc", N), ("major_id", INT), ("minor_id", INT), ("name", N),
                                       ("value", SqlType("nvarchar", 4000))]),
    "sys.triggers": _empty([("name", N), ("object_id", INT), ("parent_id", INT)]),
    "information_schema.referential_constraints": _empty(
        [("CONSTRAINT_CATALOG", N), ("CONSTRAINT_SCHEMA", N), ("CONSTRAINT_NAME", N), ("UNIQUE_CONSTRAINT_CATALOG", N),
         ("UNIQUE_CONSTRAINT_SCHEMA", N), ("UNIQUE_CONSTRAINT_NAME", N), ("MATCH_OPTION", N), ("UPDATE_RULE", N), ("DELETE_RULE", N)]
    ),
    "information_schema.parameters": _empty([("SPECIFIC_SCHEMA", N), ("SPECIFIC_NAME", N), ("PARAMETER_NAME", N), ("DATA_TYPE", N)]),
}  # fmt: skip
