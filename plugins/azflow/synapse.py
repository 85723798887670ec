"""Synapse from Airflow: T-SQL files on a SQL pool. Notebooks and Spark batches are in `azflow.spark`.

A SQL file is a Jinja template below include/sql. It is rendered, split on GO, checked (`tsql_lint`), labelled with
dag, task and run, and run batch by batch; values are bound as parameters of the driver, never pasted into the text.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.providers.common.sql.hooks.sql import DbApiHook

from azflow import exports, scans, sql_execution, table_health, tsql, tsql_lint
from azflow.connection import DEFAULT_CONNECTION, AzureConnection
from azflow.errors import AccessDenied, AzflowError, ConfigurationError, ServiceUnavailable, SpecError, SqlFailed
from azflow.runs import AzflowOperator, airflow_edge
from azflow.specs import INCLUDE
from azflow.tsql_rules import Pool

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context
    from sqlalchemy.engine import Engine

CONNECT_ATTEMPTS = 2
SELECT_ATTEMPTS = 3
_SET_WORKLOAD_CONTEXT = "EXEC sys.sp_set_session_context @key = N'wlm_context', @value = ?"


_TAG = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.DOTALL)


class SynapseSqlHook(DbApiHook):
    """A DB-API hook over mssql-python: Entra tokens or a password, as the azflow connection says.

    Airflow's own SQL operators and sensors work over it too.
    """

    conn_name_attr = "conn_id"
    default_conn_name = DEFAULT_CONNECTION
    conn_type = "azflow"
    hook_name = "Azure ML and Synapse (azflow)"
    supports_autocommit = True
    supports_executemany = True
    _placeholder = "?"

    conn_id: str

    def get_conn(self) -> Any:
        """A connection in autocommit mode: a pool refuses DDL inside a transaction, and CTAS is most of the work.

        :raises AccessDenied: the log-in is refused; names the Airflow connection.
        """
        return connect(AzureConnection.load(self.conn_id))

    def set_autocommit(self, conn: Any, autocommit: bool) -> None:
        """As DB-API's drivers want it."""
        conn.autocommit = autocommit

    def get_autocommit(self, conn: Any) -> bool:
        """Whether each statement is its own transaction."""
        return bool(conn.autocommit)

    def get_sqlalchemy_engine(self, engine_kwargs: dict[str, Any] | None = None) -> Engine:
        """An engine with the same authentication."""
        from sqlalchemy import create_engine

        arguments = AzureConnection.load(self.conn_id).sqlalchemy_engine_arguments()
        return create_engine(arguments["connection_string"], **{**arguments["kwargs"], **(engine_kwargs or {})})


def connect(connection: AzureConnection, log: Any = None, *, pool: Pool = "dedicated", database: str = "") -> Any:
    """Open a connection to a pool; transient refusals are tried again, nothing has happened yet.

    :raises AccessDenied: the log-in is refused.
    :raises ServiceUnavailable: the pool can't be reached or is busy, several times in a row.
    """
    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            return connection.sql_connect(autocommit=True, pool=pool, database=database)
        except AzflowError:
            raise
        except Exception as error:
            failed = sql_execution.connection_failure(error)
            if failed is None:
                raise
            if failed.denied:
                raise AccessDenied(connection.id, failed.message) from None
            if not failed.transient or attempt == CONNECT_ATTEMPTS:
                raise ServiceUnavailable(
                    f"Connection {connection.id!r}: SQL pool {connection.sql_host(pool)} can't be reached: "
                    f"{failed.message}"
                ) from error
            if log is not None:
                log.warning("The SQL pool refused the connection (%s); trying again.", failed.message)
            time.sleep(2.0**attempt)
    raise AssertionError("unreachable")


#: The batches of a file, each with its text as sent and its bound values.
Script = list[tuple[tsql.Batch, str, tuple[object, ...]]]


@dataclass
class Done:
    """What a script has done so far; `last` is the last result set."""

    batches: list[dict[str, Any]] = field(default_factory=list)
    last: sql_execution.BatchResult = field(default_factory=sql_execution.BatchResult)


class SynapseSqlOperator(AzflowOperator):
    """Runs a T-SQL file on a SQL pool.

    A CETAS on a dedicated pool adds its files to what lies at its LOCATION, so an export that is tried again would
    double its rows; a serverless pool refuses it. The folder is emptied before, if it lies in the lake.

    XCom: ``{"file", "label", "seconds", "rows_affected", "batches": [{"line", "seconds", "counts"}], "columns",
    "rows", "row"}``; the last three are of the last result set (its first rows; ``row`` is the first as a mapping). Of
    a serverless pool also ``"data_processed": {"scanned_mb", "moved_mb", "written_mb", "charged_mb"}``, as its messages
    say it.

    :param sql: the file, relative to include/sql; a template with ``night``, ``azure``, ``model``, ``params``.
    :param parameters: values for ``@name`` in the file, bound by the driver; text among them is a template.
    :param sql_pool: what kind of pool runs it; a serverless pool has its own address, other rules and takes no labels.
    :param database: default: the connection's for that pool.
    :param max_data_processed_mb: of a serverless pool: what the file's queries may process, by what the pool charges
        (10 MB a query at least). A batch whose OPENROWSETs and external tables will read more isn't run; what
        views read is told after only.
    :param check_tables: of a dedicated pool: look at row groups and statistics of the tables that the file loads; what
        is wrong with them goes to the log as warnings, all to XCom as ``"tables"``.
    :param workload_context: of a dedicated pool: the session's ``wlm_context``, by which a workload classifier puts the
        file's requests into a workload group, and so gives them resources and importance.
        https://learn.microsoft.com/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-workload-classification
    :param timeout_minutes: for the file as a whole; the running statement is then cancelled.
    :param keep_rows: how many rows of the last result set go to XCom.
    :param deferrable: of a dedicated pool: a triggerer holds the connection while the file runs, and no worker; for
        files that run long (a deferral costs about 3 s). A batch isn't tried again by itself then; the task is.
    """

    template_fields: Sequence[str] = ("sql", "parameters", "script")
    template_fields_renderers: ClassVar[dict[str, str]] = {"parameters": "json", "script": "tsql"}
    ui_color = "#dcebfb"

    def __init__(
        self,
        *,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        sql_pool: Pool = "dedicated",
        database: str = "",
        max_data_processed_mb: float | None = None,
        check_tables: bool = False,
        workload_context: str = "",
        timeout_minutes: float = 120,
        keep_rows: int = 20,
        deferrable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.sql = sql
        self.parameters = dict(parameters or {})
        self.sql_pool = sql_pool
        self.database = database
        self.max_data_processed_mb = max_data_processed_mb
        self.check_tables = check_tables
        self.workload_context = workload_context
        self.timeout_minutes = timeout_minutes
        self.keep_rows = keep_rows
        #: The rendered file; shown in Airflow's UI.
        self.script = ""
        self._lines: list[int] = []
        self._runner: sql_execution.Runner | None = None

    # -- rendering ---------------------------------------------------------------------------------------------------

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the fields, then the file itself: an undefined name in it is an error, not an empty text."""
        self.script = ""
        super().render_template_fields(context, jinja_env)
        with airflow_edge(self.conn_id):
            environment = jinja_env or self.get_template_env()
            self.script, self._lines = render(INCLUDE / "sql", self.sql, environment, context)

    def get_template_env(self, dag: Any = None) -> jinja2.Environment:
        """As the base class; kept apart for tasks without a DAG."""
        environment: jinja2.Environment = super().get_template_env(dag)
        return environment

    # -- running -----------------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> dict[str, Any]:
        """Check the script, connect, run its batches."""
        with airflow_edge(self.conn_id):
            script = self._prepared(request_label(context))
            connection = AzureConnection.load(self.conn_id)
            folders = self._exports(connection)
            if self.deferrable:
                self._defer(context, script, folders)
            host = connection.sql_server if self.sql_pool == "dedicated" else connection.sql_host("serverless")
            _, _, port = host.partition(",")
            self._runner = sql_execution.Runner(lambda: self._connect(connection), int(port or 1433), self.sql_pool)
            try:
                return self._run(script, request_label(context), folders, connection)
            finally:
                self._runner.close()

    def _defer(self, context: Context, script: Script, folders: Mapping[int, list[str]]) -> NoReturn:
        from azflow.script_trigger import ScriptTrigger, Step

        steps = [
            Step(text=text, values=list(values), folders=folders.get(batch.line, []))
            for batch, text, values in script
            for _ in range(batch.times)
        ]
        self.log.info("%s runs in the triggerer: %s batches.", self.sql, len(steps))
        self.defer(
            trigger=ScriptTrigger(
                conn_id=self.conn_id,
                database=self.database,
                before=[_SET_WORKLOAD_CONTEXT, self.workload_context] if self.workload_context else [],
                steps=steps,
                marker=f"azflow-deferred-{uuid.uuid4().hex}",
                deadline=time.time() + self.timeout_minutes * 60,
                keep_rows=self.keep_rows,
            ),
            method_name="resume",
            kwargs={"began": time.time()},
        )

    def resume(self, context: Context, event: Mapping[str, Any], began: float) -> dict[str, Any]:
        """Called in a worker when the script has ended in the triggerer."""
        with airflow_edge(self.conn_id):
            from azflow.script_trigger import failure_of

            label = request_label(context)
            batches = [batch for batch, _, _ in self._prepared(label) for _ in range(batch.times)]
            done = Done()
            for batch, result in zip(batches, event.get("results") or (), strict=False):
                if count := result.pop("emptied"):
                    self.log.info("emptied %s blobs of the lake", count)
                self._note(done, batch, sql_execution.BatchResult(**result))
            if event["outcome"] == "done":
                return self._finished(done, label, time.time() - began, {})
            if event["outcome"] == "failed":
                raise self._explained(batches[event["step"]], failure_of(event["failure"]))
            if event["outcome"] == "cancelled":
                stopped = sql_execution.Cancelled(event["how"], deadline=bool(event["deadline"]))
                raise self._cancelled(batches[event["step"]], stopped)
            if event["outcome"] == "lost":
                raise AzflowError(
                    f"The triggerer that ran {self.sql} was lost; its session has ended. The file begins again.",
                    retry_helps=True,
                )
            raise AzflowError(f"{self.sql}: {event['problem']}", retry_helps=bool(event["retry_helps"]))

    def on_kill(self) -> None:
        """SIGTERM: only ask; the waiting main thread then cancels the statement on the server."""
        if self._runner is not None:
            self._runner.stop()

    def _connect(self, connection: AzureConnection) -> Any:
        opened = connect(connection, self.log, pool=self.sql_pool, database=self.database)
        if self.workload_context:
            sql_execution.run_batch(opened, _SET_WORKLOAD_CONTEXT, (self.workload_context,))
        return opened

    def _prepared(self, label: str) -> Script:
        """Each batch with its text as sent and its values; raises before anything is run."""
        if self.deferrable and (self.sql_pool != "dedicated" or self.check_tables):
            raise ConfigurationError(f"{self.sql}: deferrable is for a dedicated pool, and without check_tables.")
        if self.max_data_processed_mb is not None and self.sql_pool != "serverless":
            raise ConfigurationError(f"{self.sql}: max_data_processed_mb is for sql_pool='serverless'.")
        if self.workload_context and self.sql_pool != "dedicated":
            raise ConfigurationError(
                f"{self.sql}: workload_context is for a dedicated pool; a serverless one has none."
            )
        findings = tsql_lint.lint(self.script, self.sql_pool)
        errors = [finding for finding in findings if finding.severity == "error"]
        for finding in findings:
            if finding.severity == "warning":
                self.log.warning(
                    "%s, line %s: %s: %s", self.sql, self._line(finding.line), finding.rule, finding.message
                )
        if errors:
            more = "".join(f"\n  line {self._line(other.line)}: {other.rule}: {other.message}" for other in errors[1:])
            raise self._failed(errors[0].line, f"{errors[0].rule}: {errors[0].message}{more}")
        prepared = []
        used: set[str] = set()
        for batch in tsql.batches(self.script):
            used |= tsql.used_variables(batch.text)
            text = tsql.label_statements(batch.text, label) if self.sql_pool == "dedicated" else batch.text
            try:
                bound, values = tsql.bind(text, self.parameters)
            except tsql.UnboundParameter as missing:
                raise self._failed(
                    batch.line + missing.line - 1,
                    f"{missing.name} is neither declared in its batch nor among the task's parameters "
                    f"({', '.join(sorted(self.parameters)) or 'none'})",
                ) from None
            except tsql.TsqlTextError as problem:
                raise self._failed(batch.line + problem.line - 1, problem.problem) from None
            prepared.append((batch, bound, values))
        if unused := sorted(name for name in self.parameters if name.lstrip("@").lower() not in used):
            raise ConfigurationError(
                f"{self.sql} doesn't use the parameter(s) {', '.join(unused)}. Remove them, or use @name."
            )
        if not prepared:
            raise ConfigurationError(f"{self.sql} is empty after rendering.")
        return prepared

    def _exports(self, connection: AzureConnection) -> dict[int, list[str]]:
        """The folders of the lake that CETAS statements write to, by the line where their batch begins.

        A dedicated pool would add to what lies there, a serverless one refuses: another try needs it empty.
        """
        sources = exports.data_sources(self.script)
        found: dict[int, list[str]] = {}
        for batch in tsql.batches(self.script):
            for target in exports.targets(batch.text):
                line = batch.line + target.line - 1
                try:
                    folder = exports.folder(target, sources, connection)
                except ConfigurationError as problem:
                    raise self._failed(line, str(problem)) from None
                if folder is None or target.conditional:
                    why = (
                        "it hangs on a condition"
                        if folder
                        else f"data source {target.source!r} isn't {connection.id}'s"
                    )
                    self.log.warning(
                        "%s, line %s: what already lies at %s stays, because %s; a second run would add to it.",
                        self.sql,
                        self._line(line),
                        target.location,
                        why,
                    )
                else:
                    found.setdefault(batch.line, []).append(folder)
        return found

    def _run(
        self,
        script: Script,
        label: str,
        folders: Mapping[int, list[str]],
        connection: AzureConnection,
    ) -> dict[str, Any]:
        started = time.monotonic()
        deadline = started + self.timeout_minutes * 60
        done = Done()
        budget = scans.Budget(self.max_data_processed_mb)
        for batch, text, values in script:
            for _ in range(batch.times):
                self._afford(budget, batch, connection)
                for folder in folders.get(batch.line, ()):
                    if count := exports.empty(connection, folder):
                        self.log.info("emptied %s blobs below %s/%s", count, connection.container, folder)
                result = self._run_batch(batch, text, values, deadline)
                self._note(done, batch, result)
                if over := budget.after(result.messages):
                    raise self._failed(batch.line + tsql.statements(batch.text)[0].line - 1, over, exact=False)
        more: dict[str, Any] = {}
        if self.sql_pool == "serverless":
            more["data_processed"] = budget.spent.view()
        elif self.check_tables:
            more["tables"] = self._tables(deadline)
        return self._finished(done, label, time.monotonic() - started, more)

    def _note(self, done: Done, batch: tsql.Batch, result: sql_execution.BatchResult) -> None:
        """A batch has run: to the log, and to what becomes the XCom."""
        line = self._line(batch.line + tsql.statements(batch.text)[0].line - 1)
        done.batches.append({"line": line, "seconds": result.seconds, "counts": result.counts})
        for message in result.messages:
            self.log.info("The pool says: %s", message)
        self.log.info("%s, line %s: %s in %.1f s", self.sql, line, _counted(result.counts), result.seconds)
        if result.columns:
            done.last = result

    def _finished(self, done: Done, label: str, seconds: float, more: Mapping[str, Any]) -> dict[str, Any]:
        last = done.last
        return {
            **more,
            "file": self.sql,
            "label": label,
            "seconds": round(seconds, 3),
            "rows_affected": sum(count.get("affected", 0) for batch in done.batches for count in batch["counts"]),
            "batches": done.batches,
            "columns": last.columns,
            "rows": last.rows,
            "row": dict(zip(last.columns, last.rows[0], strict=True)) if last.rows else None,
        }

    def _tables(self, deadline: float) -> list[dict[str, Any]]:
        """How the tables are that were loaded. The work is done: what goes wrong here is a warning."""
        assert self._runner is not None
        runner = self._runner

        def query(text: str, values: tuple[object, ...]) -> list[list[Any]]:
            return runner.run_batch(text, values, deadline=deadline).rows

        found = []
        for table in table_health.loaded_tables(self.script):
            try:
                health = table_health.look(table, query)
            except (sql_execution.StatementFailed, sql_execution.Cancelled) as problem:
                self.log.warning("%s: row groups and statistics can't be read (%s)", table, problem)
                continue
            found.append(health.view())
            for problem_text in health.problems():
                self.log.warning("%s: %s", table, problem_text)
        return found

    def _afford(self, budget: scans.Budget, batch: tsql.Batch, connection: AzureConnection) -> None:
        """Refuse a batch that would read more of the lake than the task may."""
        if budget.most is None:
            return
        assert self._runner is not None
        found = scans.scans(batch.text, self.parameters)
        tables = self._runner.run_batch(scans.EXTERNAL_TABLES, keep_rows=10_000).rows
        found += scans.table_scans(batch.text, tables)
        if not found:
            return
        known = self._runner.run_batch("SELECT name, location FROM sys.external_data_sources", keep_rows=1000).rows
        sources = {str(name).lower(): str(location) for name, location in known}
        expected = scans.estimate(connection, found, sources)
        for unknown in expected.unknown:
            self.log.warning("%s, line %s: not estimated: %s", self.sql, self._line(batch.line), unknown)
        if problem := budget.before(expected):
            raise self._failed(batch.line + found[0].line - 1, problem)
        self.log.info("about %s MB of %s files will be processed", expected.charged, expected.files)

    def _run_batch(
        self, batch: tsql.Batch, text: str, values: tuple[object, ...], deadline: float
    ) -> sql_execution.BatchResult:
        """One batch; a batch of nothing but SELECTs is tried again after a transient error, nothing else is.

        Over a new connection only where no batch before may have left something in the session.
        """
        assert self._runner is not None
        only_reads = tsql.only_reads(batch.text)
        for attempt in range(1, SELECT_ATTEMPTS + 1):
            try:
                return self._runner.run_batch(text, values, deadline=deadline, keep_rows=self.keep_rows)
            except sql_execution.Cancelled as stopped:
                raise self._cancelled(batch, stopped) from None
            except sql_execution.StatementFailed as problem:
                failed = self._explained(batch, problem)
                safe = only_reads and problem.transient and not (problem.lost and tsql.uses_session(self.script))
                if not safe or attempt == SELECT_ATTEMPTS:
                    raise failed from problem
                self.log.warning("%s Trying again.", failed)
                time.sleep(2.0**attempt)
                if problem.lost:
                    self._runner.reopen()
        raise AssertionError("unreachable")

    # -- messages ----------------------------------------------------------------------------------------------------

    def _line(self, rendered: int) -> int:
        """The file's line that made line `rendered` of the script."""
        return self._lines[rendered - 1] if 0 < rendered <= len(self._lines) else rendered

    def _failed(
        self, rendered: int, message: str, *, number: int | None = None, retry_helps: bool = False, exact: bool = True
    ) -> SqlFailed:
        lines = self.script.splitlines()
        text = lines[rendered - 1].strip() if 0 < rendered <= len(lines) else ""
        place = f" In: {text[:200]}" if text and exact else f" In the statement at: {text[:200]}" if text else ""
        return SqlFailed(
            f"{message}{place}", file=self.sql, line=self._line(rendered), number=number, retry_helps=retry_helps
        )

    def _explained(self, batch: tsql.Batch, problem: sql_execution.StatementFailed) -> SqlFailed:
        return self._failed(
            batch.line + problem.line - 1,
            scans.explained(problem.message),
            number=problem.number,
            retry_helps=problem.transient,
            exact=problem.exact,
        )

    def _cancelled(self, batch: tsql.Batch, stopped: sql_execution.Cancelled) -> SqlFailed:
        why = f"it ran past the task's {self.timeout_minutes:g} minutes" if stopped.deadline else "the task was stopped"
        how = {
            "cancelled": "was cancelled",
            "killed": "was ended by killing its session",
            "dropped": "was ended by cutting its connection",
            "abandoned": "didn't end when asked; its connection ends with this process",
        }[stopped.how]
        first = tsql.statements(batch.text)[0].line
        return self._failed(
            batch.line + first - 1, f"the batch {how}: {why}.", retry_helps=not stopped.deadline, exact=False
        )


def render(root: Path, name: str, environment: jinja2.Environment, context: Mapping[str, Any]) -> tuple[str, list[int]]:
    """The file `name` below `root`, rendered: (text, for each of its lines the line of the file it came from).

    ``include`` and ``import`` in a file find others below `root`.

    :raises SpecError: it doesn't exist, lies outside `root`, or the template is wrong (names the line).
    """
    import jinja2

    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise SpecError(f"sql/{name}", "", "must be relative to include/sql")
    try:
        source = (root / pure).read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(f"include/sql/{name}", "", f"can't be read: {problem.strerror}") from None
    strict = environment.overlay(
        undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(root), keep_trailing_newline=True
    )
    try:
        text = strict.from_string(source).render(context)
    except jinja2.TemplateSyntaxError as problem:
        raise SpecError(f"include/sql/{name}", f"line {problem.lineno}", str(problem.message)) from None
    except jinja2.TemplateError as problem:
        raise SpecError(f"include/sql/{name}", _template_line(problem), str(problem.message)) from None
    return text, source_lines(source, text, strict, context)


def _template_line(problem: BaseException) -> str:
    """Where in the template a run-time error arose: Jinja rewrites the traceback to the template's lines."""
    line, trace = 0, problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}" if line else ""


def source_lines(source: str, text: str, environment: jinja2.Environment, context: Mapping[str, Any]) -> list[int]:
    """For each line of the rendered `text` the line of `source` it came from; the same number where that can't be told.

    Rendered a second time with a mark at the end of each line: loops and conditions then show where lines came from.
    """
    import jinja2

    if "{%" not in source:
        return list(range(1, len(text.splitlines()) + 1))
    marked = _marked(source)
    try:
        rendered = environment.from_string(marked).render(context)
    except jinja2.TemplateError:
        return []
    origins: list[tuple[str, int]] = []
    for piece in rendered.split("\x03"):
        content, _, number = piece.rpartition("\x02")
        if content.strip() and number.isdigit():
            origins += [(line.strip(), int(number)) for line in content.split("\n") if line.strip()]
    lines: list[int] = []
    for position, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        while origins and stripped and origins[0][0] != stripped:
            origins.pop(0)
        lines.append(origins.pop(0)[1] if stripped and origins else (lines[-1] if lines else position))
    return lines


def _marked(source: str) -> str:
    """`source` with the number of each line at its end, but for line ends inside a tag."""
    tags = [match.span() for match in _TAG.finditer(source)]
    pieces: list[str] = []
    begin = 0
    for number, match in enumerate(re.finditer(r"\n|\Z", source), start=1):
        end = match.start()
        mark = "" if any(first < end < last for first, last in tags) else f"\x02{number}\x03"
        pieces += [source[begin:end], mark, match[0]]
        begin = match.end()
    return "".join(pieces)


def request_label(context: Context) -> str:
    """Dag, task and run as sys.dm_pdw_exec_requests shows them."""
    ti = context["ti"]
    return f"azflow:{ti.dag_id}:{ti.task_id}:{ti.run_id}"


def _counted(counts: list[dict[str, int]]) -> str:
    parts = [
        f"{count['rows']} rows read" if "rows" in count else f"{count['affected']} rows affected" for count in counts
    ]
    return ", ".join(parts) or "done"
