"""SQL files: rendered, bound, run, stopped, and what errors say. The database is a fake driver."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

import azflow.synapse
from azflow import exports, sql_execution
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, ConfigurationError, ServiceUnavailable, SpecError, SqlFailed
from azflow.synapse import SynapseSqlHook, SynapseSqlOperator, connect, render


class DatabaseError(Exception):
    """As PEP 249 names it."""


class FakeCursor:
    """Answers each batch with the results its `database` holds for it: (columns, rows), a count, or an error."""

    def __init__(self, database: FakeDatabase) -> None:
        self.database = database
        self.messages: list[tuple[str, str]] = []
        self.description: list[tuple[str]] | None = None
        self.rowcount = -1
        self._left: list[Any] = []
        self._rows: list[Any] = []
        self.cancelled = threading.Event()

    def execute(self, text: str, *parameters: Any) -> None:
        if text.endswith("AS session"):
            self._left = [(["session"], [(self.database.session,)])]
            self.nextset()
            return
        self.database.executed.append((text, *parameters))
        self._left = list(self.database.answers.pop(0) if self.database.answers else [0])
        self.nextset()

    def nextset(self) -> bool:
        if not self._left:
            return False
        answer = self._left.pop(0)
        self.description, self.rowcount = None, -1
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            answer = answer(self)
        if isinstance(answer, tuple):
            self.description = [(name,) for name in answer[0]]
            self._rows = list(answer[1])
        else:
            self.rowcount = answer
        return True

    def fetchmany(self, size: int) -> list[Any]:
        chunk, self._rows = self._rows[:size], self._rows[size:]
        return chunk

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        pass


class FakeDatabase:
    def __init__(self, *answers: list[Any]) -> None:
        self.answers = list(answers)
        self.executed: list[tuple[Any, ...]] = []
        self._cursors: list[FakeCursor] = []
        self.closed = False
        self.session = "SID51"

    def cursor(self) -> FakeCursor:
        self._cursors.append(FakeCursor(self))
        return self._cursors[-1]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sql" / "staging").mkdir(parents=True)
    monkeypatch.setattr(azflow.synapse, "INCLUDE", tmp_path)
    return tmp_path


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> FakeDatabase:
    fake = FakeDatabase()
    monkeypatch.setattr(azflow.synapse, "connect", lambda connection, log=None, **which: fake)
    return fake


def context(**params: Any) -> dict[str, Any]:
    task_instance = SimpleNamespace(dag_id="nightly", task_id="prepare.stage", run_id="manual__1", map_index=-1)
    run = SimpleNamespace(dag_id="nightly", run_id="manual__1", logical_date=None, run_after=None)
    return {"ti": task_instance, "dag_run": run, "params": {"partition": "2013-03-08", **params}}


def rendered(operator: SynapseSqlOperator, **params: Any) -> dict[str, Any]:
    found = context(**params)
    operator.render_template_fields(found, jinja2.Environment())  # type: ignore[arg-type]
    return found


def run(operator: SynapseSqlOperator, **params: Any) -> dict[str, Any]:
    return operator.execute(rendered(operator, **params))  # type: ignore[arg-type]


SCRIPT = """-- stage one night
COPY INTO stg.flights FROM '{{ azure.lake_url }}/landing/{{ night.partition }}/flights.csv' WITH (FILE_TYPE = 'CSV');
UPDATE STATISTICS stg.flights;
GO
SELECT COUNT(*) AS n, MAX(d) AS last, SUM(p) AS total FROM stg.flights WHERE d = @day; -- how many?
"""


def test_a_file_is_rendered_labelled_bound_and_counted(include: Path, database: FakeDatabase) -> None:
    (include / "sql/staging/flights.sql").write_text(SCRIPT)
    database.answers = [[842, -1], [(["n", "last", "total"], [(842, date(2013, 3, 8), Decimal("1.50"))])]]
    outcome = run(
        SynapseSqlOperator(task_id="x", sql="staging/flights.sql", parameters={"day": "{{ night.partition }}"})
    )
    (copy,), (select, values) = database.executed
    label = "OPTION (LABEL = 'azflow:nightly:prepare.stage:manual__1')"
    assert "FROM 'https://lakeaccount.dfs.core.windows.net/lake/landing/2013-03-08/flights.csv'" in copy
    assert copy.count(label) == select.count(label) == 1
    assert "d = ?" in select and values == ("2013-03-08",)
    assert outcome["rows_affected"] == 842
    assert [(batch["line"], batch["counts"]) for batch in outcome["batches"]] == [
        (2, [{"affected": 842}]),
        (5, [{"rows": 1}]),
    ]
    assert outcome["row"] == {"n": 842, "last": "2013-03-08", "total": 1.5}
    assert database.closed
    json.dumps(outcome)  # an XCom


def test_only_the_first_rows_of_a_result_travel(include: Path, database: FakeDatabase) -> None:
    (include / "sql/a.sql").write_text("SELECT x FROM t")
    database.answers = [[(["x"], [(number,) for number in range(2500)])]]
    outcome = run(SynapseSqlOperator(task_id="x", sql="a.sql", keep_rows=3))
    assert outcome["rows"] == [[0], [1], [2]]
    assert outcome["batches"][0]["counts"] == [{"rows": 2500}]


def test_go_with_a_count_repeats_its_batch(include: Path, database: FakeDatabase) -> None:
    (include / "sql/a.sql").write_text("INSERT INTO t SELECT 1 AS x\nGO 3\n")
    database.answers = [[1], [1], [1]]
    assert run(SynapseSqlOperator(task_id="x", sql="a.sql"))["rows_affected"] == 3


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("SELECT 1\nFROM {{ nothing }}", r"include/sql/a\.sql: line 2: 'nothing' is undefined"),
        ("SELECT 1\n{% if %}", r"include/sql/a\.sql: line 2"),
        ("SELECT 1 AS x\nGO\nCREATE TABLE t WITH (HEAP)\nAS SELECT x FROM y", r"a\.sql, line 3: ctas-distribution: .*"),
        ("SELECT 1\nWHERE 2 = @two", r"a\.sql, line 2: @two is neither declared .* \(day\) In: WHERE 2 = @two"),
        ("SELECT 1", r"a\.sql doesn't use the parameter\(s\) day"),
        ("-- {{ night.partition }} @day", r"doesn't use the parameter\(s\) day"),
        ("SELECT @day,\n 'open", r"a\.sql, line 2: unreadable"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_before_anything_runs(
    include: Path, database: FakeDatabase, script: str, says: str
) -> None:
    (include / "sql/a.sql").write_text(script)
    with pytest.raises(AirflowFailException, match=says):
        run(SynapseSqlOperator(task_id="x", sql="a.sql", parameters={"day": 1}))
    assert database.executed == []


@pytest.mark.parametrize("name", ["missing.sql", "../secrets.sql", "/etc/passwd"])
def test_a_file_must_exist_below_include_sql(include: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"can't be read|must be relative"):
        render(include / "sql", name, jinja2.Environment(), {})


def test_files_may_include_others(include: Path) -> None:
    (include / "sql/staging/part.sql").write_text("SELECT {{ x }}")
    (include / "sql/a.sql").write_text("{% include 'staging/part.sql' %}\n")
    assert render(include / "sql", "a.sql", jinja2.Environment(), {"x": 7})[0] == "SELECT 7\n"


LOOP = "{% for day in night.days %}\nDELETE FROM t WHERE d = '{{ day }}';\n{% endfor %}\nSELECT x\nFROM missing\n"


def test_lines_in_errors_are_the_files_own_even_behind_a_loop(include: Path, database: FakeDatabase) -> None:
    (include / "sql/a.sql").write_text(LOOP)
    error = DatabaseError("[Microsoft][SQL Server]Invalid object name 'missing'.")
    database.answers = [[1, 1, 1, error]]
    with pytest.raises(
        AirflowException, match=r"a\.sql, line 5: Invalid object name 'missing'\..*FROM missing"
    ) as caught:
        run(SynapseSqlOperator(task_id="x", sql="a.sql"), backfill_from="2013-03-06")
    assert isinstance(caught.value.__cause__, SqlFailed)


def test_the_pools_own_line_counts_within_its_batch(include: Path, database: FakeDatabase) -> None:
    (include / "sql/a.sql").write_text("SELECT 1 AS x\nGO\nSELECT x\nFRM t")
    database.answers = [
        [(["x"], [(1,)])],
        [DatabaseError("[Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Parse error at line: 2, column: 1: FRM")],
    ]
    with pytest.raises(AirflowFailException, match=r"a\.sql, line 4: Parse error at line: 2, .* In: FRM t"):
        run(SynapseSqlOperator(task_id="x", sql="a.sql"))


@pytest.mark.parametrize(
    ("text", "message", "counted", "expected"),
    [
        ("SELECT 1\nFROM a", "boom", 0, (1, True)),
        ("DELETE a\nDELETE b\nDELETE c", "boom", 1, (2, False)),
        ("DELETE a\nDELETE b\nDELETE c", "boom", 2, (3, False)),
        ("DELETE a\nDELETE b\nDELETE [x].[c]", "Invalid object name 'x.c'.", 0, (3, True)),
        ("DECLARE @a int\nSET @a = 1\nSELECT\n missing FROM b", "Invalid column name 'missing'.", 0, (4, True)),
    ],
)
def test_the_failing_statement_is_told_by_counts_and_names(
    text: str, message: str, counted: int, expected: tuple[int, bool]
) -> None:
    assert sql_execution.locate(text, message, counted) == expected


@pytest.mark.parametrize(
    ("script", "tries"),
    [
        ("SELECT x FROM t", 3),
        ("DECLARE @a int = 1; SELECT @a", 3),
        ("SELECT x INTO t FROM u", 1),
        ("DELETE FROM t WHERE x = 1", 1),
    ],
)
def test_only_reading_is_tried_again(
    include: Path, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch, script: str, tries: int
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (include / "sql/a.sql").write_text(script)
    deadlock = "Error 1205: Transaction was deadlocked"
    database.answers = [[DatabaseError(deadlock)] for _ in range(4)]
    with pytest.raises(AirflowException, match=r"\(error 1205\)") as caught:
        run(SynapseSqlOperator(task_id="x", sql="a.sql"))
    assert len(database.executed) == tries
    assert not isinstance(caught.value, AirflowFailException)  # the task's own retry may succeed


LOST = "Communication link failure (SQLSTATE code: 08S01)"


@pytest.mark.parametrize(
    ("script", "opened"),
    [
        ("SELECT x FROM t", 2),
        ("CREATE TABLE #t (x int) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN)\nGO\nSELECT x FROM #t", 1),
        ("SET DATEFIRST 7\nGO\nSELECT x FROM t", 1),
        ("DELETE FROM t WHERE x = 1", 1),
    ],
)
def test_a_lost_connection_is_opened_anew_only_where_nothing_is_lost_with_it(
    include: Path, database: FakeDatabase, monkeypatch: pytest.MonkeyPatch, script: str, opened: int
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    connections = [database, FakeDatabase([(["x"], [(7,)])])]
    monkeypatch.setattr(azflow.synapse, "connect", lambda connection, log=None, **which: connections.pop(0))
    (include / "sql/a.sql").write_text(script)
    database.answers = [[0]] * script.count("GO") + [[DatabaseError(LOST)]]
    if opened == 1:
        with pytest.raises(AirflowException, match="Communication link failure"):
            run(SynapseSqlOperator(task_id="x", sql="a.sql"))
    else:
        assert run(SynapseSqlOperator(task_id="x", sql="a.sql"))["row"] == {"x": 7}
    assert len(connections) == 2 - opened


def test_a_programmers_error_is_not_the_databases() -> None:
    with pytest.raises(ZeroDivisionError):
        sql_execution.run_batch(FakeDatabase([ZeroDivisionError()]), "SELECT 1")


# exports


CETAS = """CREATE EXTERNAL DATA SOURCE lake WITH (TYPE = HADOOP, LOCATION = '{{ azure.lake_abfss_url }}');
GO
CREATE EXTERNAL TABLE stg.[out] WITH (LOCATION = '/export/{{ night.partition }}/', DATA_SOURCE = lake, FILE_FORMAT = p)
AS SELECT x FROM t;
"""


class FakeLake:
    """A container as far as emptying a folder needs it."""

    def __init__(self, *names: str, folders: tuple[str, ...] = ()) -> None:
        self.names = [*names, *folders]
        self.folders = folders
        self.deleted: list[str] = []

    def __enter__(self) -> FakeLake:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get_container_client(self, name: str) -> FakeLake:
        return self

    def list_blobs(self, name_starts_with: str, include: list[str]) -> Any:
        for name in sorted(self.names):
            if name.startswith(name_starts_with):
                yield SimpleNamespace(name=name, metadata={"hdi_isfolder": "true"} if name in self.folders else None)

    def delete_blob(self, name: str) -> None:
        self.deleted.append(name)


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> FakeLake:
    fake = FakeLake(
        "export/2013-03-08/QID1.parq",
        "export/2013-03-08/_SUCCESS",
        "export/2013-03-08.mltable/MLTable",
        "export/2013-03-07/QID0.parq",
        folders=("export/2013-03-08/part",),
    )
    monkeypatch.setattr(AzureConnection, "blob_service", lambda self: fake)
    return fake


def test_what_a_cetas_writes_to_is_emptied_before_marker_first(
    include: Path, database: FakeDatabase, lake: FakeLake, capsys: pytest.CaptureFixture[str]
) -> None:
    (include / "sql/a.sql").write_text(CETAS)
    gone_when_it_ran: list[str] = []

    def export(cursor: FakeCursor) -> int:
        gone_when_it_ran.extend(lake.deleted)
        return 3

    database.answers = [[-1], [export]]
    run(SynapseSqlOperator(task_id="x", sql="a.sql"))
    assert gone_when_it_ran == ["export/2013-03-08/_SUCCESS", "export/2013-03-08/QID1.parq"]
    assert "emptied 2 blobs below lake/export/2013-03-08" in capsys.readouterr().out


@pytest.mark.parametrize("location", ["", "/", "//", "./", "../landing", "export/../landing"])
def test_an_export_needs_a_folder_of_its_own(
    include: Path, database: FakeDatabase, lake: FakeLake, location: str
) -> None:
    (include / "sql/a.sql").write_text(CETAS.replace("/export/{{ night.partition }}/", location))
    with pytest.raises(AirflowFailException, match=r"a\.sql, line 3: stg\.out would be exported to LOCATION"):
        run(SynapseSqlOperator(task_id="x", sql="a.sql"))
    assert (database.executed, lake.deleted) == ([], [])


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            CETAS.replace("{{ azure.lake_abfss_url }}", "abfss://raw@other.dfs.core.windows.net"),
            "isn't azure_default's",
        ),
        (CETAS.replace("{{ azure.lake_abfss_url }}", "{{ azure.lake_abfss_url }}house"), "isn't azure_default's"),
        (CETAS[CETAS.index("GO\n") :].replace("= lake", "= raw"), "isn't azure_default's"),
        (CETAS.replace("CREATE EXTERNAL TABLE", "IF 1 = 2 CREATE EXTERNAL TABLE"), "hangs on a condition"),
        (CETAS.replace("CREATE EXTERNAL TABLE", "IF 1 = 2 BEGIN PRINT 'x' CREATE EXTERNAL TABLE") + "END", "condition"),
    ],
)
def test_what_may_not_be_ours_to_empty_stays(
    include: Path, lake: FakeLake, capsys: pytest.CaptureFixture[str], script: str, says: str
) -> None:
    (include / "sql/a.sql").write_text(script)
    run(SynapseSqlOperator(task_id="x", sql="a.sql"))
    assert lake.deleted == []
    assert f"{says}; a second run would add to it" in capsys.readouterr().out


def test_the_data_source_may_lie_below_the_lakes_root_or_be_there_already() -> None:
    connection = AzureConnection(id="c", storage_account_url="https://acct.blob.core.windows.net")
    (below,) = exports.targets("CREATE EXTERNAL TABLE t WITH (LOCATION = N'a/b', DATA_SOURCE = [Raw]) AS SELECT 1 AS x")
    root = "abfss://lake@acct.dfs.core.windows.net"
    assert exports.folder(below, {"raw": f"{root}/data/"}, connection) == "data/a/b"
    (named,) = exports.targets("CREATE EXTERNAL TABLE t WITH (DATA_SOURCE = Lake, LOCATION = 'a') AS SELECT 1 AS x")
    assert exports.folder(named, {}, connection) == "a"


def test_a_folder_of_too_many_blobs_is_no_export(monkeypatch: pytest.MonkeyPatch, lake: FakeLake) -> None:
    monkeypatch.setattr(exports, "MOST_BLOBS", 1)
    with pytest.raises(ConfigurationError, match=r"lake/export/2013-03-08 holds more than 1 blobs"):
        exports.empty(AzureConnection(id="c"), "export/2013-03-08")
    assert lake.deleted == []


# stopping


def hang(cursor: FakeCursor) -> int:
    """A statement that runs until it is cancelled."""
    assert cursor.cancelled.wait(10)
    raise DatabaseError("Operation cancelled by user.")


def test_on_kill_cancels_the_running_statement(include: Path, database: FakeDatabase) -> None:
    (include / "sql/a.sql").write_text("SELECT 1 AS x\nGO\nDELETE FROM t WHERE x = 1")
    database.answers = [[(["x"], [(1,)])], [hang]]
    operator = SynapseSqlOperator(task_id="x", sql="a.sql")
    found = rendered(operator)
    threading.Timer(0.3, operator.on_kill).start()
    started = time.monotonic()
    with pytest.raises(AirflowException, match=r"a\.sql, line 3: the batch was cancelled: the task was stopped"):
        operator.execute(found)  # type: ignore[arg-type]
    assert database._cursors[-1].cancelled.is_set()
    assert time.monotonic() - started < 5


def test_the_workload_context_is_set_on_each_connection(include: Path, database: FakeDatabase) -> None:
    (include / "sql/a.sql").write_text("SELECT x FROM t")
    database.answers = [[-1], [(["x"], [(1,)])]]
    run(SynapseSqlOperator(task_id="x", sql="a.sql", workload_context="nightly"))
    assert database.executed[0] == ("EXEC sys.sp_set_session_context @key = N'wlm_context', @value = ?", ("nightly",))
    with pytest.raises(AirflowFailException, match="workload_context is for a dedicated pool"):
        run(SynapseSqlOperator(task_id="x", sql="a.sql", workload_context="nightly", sql_pool="serverless"))
    with pytest.raises(AirflowFailException, match="max_data_processed_mb is for sql_pool='serverless'"):
        run(SynapseSqlOperator(task_id="x", sql="a.sql", max_data_processed_mb=10))


class TimedOut(BaseException):
    """As Airflow raises it for execution_timeout, from a signal handler."""


@pytest.mark.parametrize("raises", [True, False])
def test_signal_handlers_run_while_a_statement_does(include: Path, database: FakeDatabase, raises: bool) -> None:
    (include / "sql/a.sql").write_text("DELETE FROM t WHERE x = 1")
    database.answers = [[hang]]
    operator = SynapseSqlOperator(task_id="x", sql="a.sql")
    found = rendered(operator)

    def handler(number: int, frame: object) -> None:
        if raises:
            raise TimedOut
        operator.on_kill()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(TimedOut if raises else AirflowException):
            operator.execute(found)  # type: ignore[arg-type]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert database._cursors[-1].cancelled.is_set()


def test_the_deadline_cancels_the_running_statement(include: Path, database: FakeDatabase) -> None:
    (include / "sql/a.sql").write_text("DELETE FROM t WHERE x = 1")
    database.answers = [[hang]]
    with pytest.raises(AirflowFailException, match=r"was cancelled: it ran past the task's 0\.005 minutes"):
        run(SynapseSqlOperator(task_id="x", sql="a.sql", timeout_minutes=0.005))


def test_a_statement_that_ignores_the_cancel_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_execution, "CANCEL_PATIENCE", 0.2)
    release = threading.Event()

    def deaf(cursor: FakeCursor) -> int:
        release.wait(10)
        return 1

    fake = FakeDatabase([deaf])
    runner = sql_execution.Runner(lambda: fake, port=1)
    with pytest.raises(sql_execution.Cancelled) as caught:
        runner.run_batch("DELETE t", deadline=time.monotonic())
    assert (caught.value.how, caught.value.deadline) == ("abandoned", True)
    runner.close()
    assert not fake.closed  # a thread still is in there
    release.set()


@pytest.mark.parametrize(
    ("pool", "session", "kill"), [("dedicated", "SID51", "KILL 'SID51'"), ("serverless", 51, "KILL 51")]
)
def test_a_session_that_ignores_the_cancel_is_killed(
    monkeypatch: pytest.MonkeyPatch, pool: str, session: Any, kill: str
) -> None:
    monkeypatch.setattr(sql_execution, "CANCEL_PATIENCE", 2.0)
    killed = threading.Event()

    def deaf(cursor: FakeCursor) -> int:
        assert killed.wait(10)
        raise DatabaseError(LOST)

    def kill_it(cursor: FakeCursor) -> int:
        killed.set()
        return -1

    first, second = FakeDatabase([deaf]), FakeDatabase([kill_it])
    first.session = session
    connections = [first, second]
    runner = sql_execution.Runner(lambda: connections.pop(0), 1, pool)
    with pytest.raises(sql_execution.Cancelled) as caught:
        runner.run_batch("DELETE t", deadline=time.monotonic())
    assert (caught.value.how, second.executed, second.closed) == ("killed", [(kill,)], True)


def test_a_stop_before_the_first_statement_runs_none() -> None:
    fake = FakeDatabase()
    runner = sql_execution.Runner(lambda: fake)
    runner.stop()
    with pytest.raises(sql_execution.Cancelled):
        runner.run_batch("DELETE t")
    assert fake.executed == []


# connecting


def refusing(message: str) -> Callable[..., Any]:
    def sql_connect(self: AzureConnection, **arguments: Any) -> Any:
        raise DatabaseError(message)

    return sql_connect


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        ("Error 40613: not currently available", ServiceUnavailable, "pool.sql.azuresynapse.net can't be reached"),
        ("Error 18456: Login failed for user 'x'.", AccessDenied, "Connection 'prod' was refused: .*Login failed"),
    ],
)
def test_a_connection_that_doesnt_come_about_names_itself(
    monkeypatch: pytest.MonkeyPatch, message: str, kind: type[Exception], says: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(AzureConnection, "sql_connect", refusing(message))
    with pytest.raises(kind, match=says):
        connect(AzureConnection(id="prod", sql_server="pool.sql.azuresynapse.net"))


def test_the_hook_is_a_db_api_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDatabase([(["x"], [(1,)])])
    monkeypatch.setattr(azflow.synapse, "connect", lambda connection, log=None, **which: fake)
    hook = SynapseSqlHook("azure_default")
    assert hook.get_conn() is fake
    assert hook.placeholder == "?"
