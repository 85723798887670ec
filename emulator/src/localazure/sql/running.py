"""The engine's side of a session: compile a statement, run it on DuckDB, hand back Arrow."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from localazure.sql import authority, catalog_views, errors, external, openrowset, result_cache, tables, workload
from localazure.sql import syntax as s
from localazure.sql.binding import Attachments, Context, RowSource, Scope, parameter_name
from localazure.sql.catalog import Catalog, Snapshot, Table, quote
from localazure.sql.changes import ChangeCompiler, CompiledChange, stored
from localazure.sql.conversions import Value, convert
from localazure.sql.queries import CompiledQuery, OutputColumn
from localazure.sql.results import Column, Result, ResultSet, RowsAffected, SqlError, SqlType
from localazure.sql.scans import LakeScan, Usage, prune
from localazure.sql.sqltypes import CHARACTER, INT, SYSNAME, arrow, duck, from_arrow
from localazure.sql.syntax_queries import reads_rows

if TYPE_CHECKING:
    from localazure.sql.authority import Authority
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Pool
    from localazure.sql.principals import Access
    from localazure.sql.requests import Request

_ATTEMPTS = 5


@dataclass
class Compiled:
    """A statement ready to run: ``sql`` names its parameters $v_..; ``output`` is set for a query."""

    statement: s.Node
    sql: str
    parameters: frozenset[str]
    attachments: Attachments = field(default_factory=dict)
    output: tuple[OutputColumn, ...] = ()
    change: CompiledChange | None = None
    stored: bool = False
    cacheable: bool = False


_VOLATILE = re.compile(r"\b(?:gen_random_uuid|uuid|random)\(")


class Running:
    """Mixed into Session; needs its cursor, pool and state."""

    pool: Pool
    cursor: duckdb.DuckDBPyConnection
    scratch: duckdb.DuckDBPyConnection
    temporary: dict[str, Table]
    spid: int
    login: str
    application: str
    host: str
    transaction_count: int
    doomed: bool
    changing: bool
    row_count: int
    error: SqlError | None
    last_error_number: int
    identity_insert: str
    options: dict[str, str]
    usage: Usage
    context_values: dict[str, object]
    request: Request | None
    definitions: list[tuple[Catalog, Snapshot, Snapshot]]
    authority: Authority
    _cancelled: threading.Event

    # ---- compiling --------

    def access(self) -> Access | None:
        """What the session's user may do in the present database; None: everything."""
        return self.authority.access(self.pool)

    def context(self, frame: Frame) -> Context:
        access = self.access()
        chain = frame.chain if access is not None else None
        schema = "dbo"
        if access is not None and chain is None:
            schema = access.directory.by_id[access.user_id].schema
        return Context(
            catalog=self.pool.catalog,
            kind=self.pool.kind,
            database=self.pool.database,
            temporary=self.temporary,
            variables={name: variable.type for name, variable in frame.variables.items()},
            constant=lambda name: frame.variables[name.lower()].value,
            server_value=self.server_value,
            system_rows=lambda schema, name: catalog_views.system_rows(self, schema, name),  # type: ignore[arg-type]
            external_rows=lambda table: external.read_table(self.pool, table),
            databases=self.pool.databases,
            session_values=self.context_values,
            pool=self.pool,
            lake=_lake if self.pool.kind.openrowset else None,
            default_schema=schema,
            access=access,
            access_in=self.authority.access,
            chain=chain[1] if chain is not None and chain[0] == self.pool.number else None,
        )

    def compiler(self, frame: Frame) -> ChangeCompiler:
        compiler = ChangeCompiler(self.context(frame))
        compiler.identity_insert = self.identity_insert
        return compiler

    def compile(self, statement: s.Node, frame: Frame, *, cached: bool = True) -> Compiled:
        """Bind and type a query or a change; SqlError for what the names or types forbid."""
        types = (
            tuple(sorted((name, variable.type) for name, variable in frame.variables.items()))
            if frame.variables
            else ()
        )
        access = self.access()
        who = None if access is None else (access.user_id, access.reads_all, frame.chain)
        key = (id(statement), self.pool.number, self.pool.catalog.version, str(types), self.identity_insert, who)
        if cached:
            found = self.pool.engine.cached(key)
            if isinstance(found, Compiled):
                return found
        compiler = self.compiler(frame)
        context = compiler.context
        output: tuple[OutputColumn, ...] = ()
        change: CompiledChange | None = None
        match statement:
            case s.QueryStatement():
                compiled = compiler.query(statement.query, None)
                sql, output = compiled.sql, compiled.columns
            case s.Insert():
                change = compiler.insert(statement)
            case s.Update():
                change = compiler.update(statement)
            case s.Delete():
                change = compiler.delete(statement)
            case s.Merge():
                change = compiler.merge(statement)
            case _:
                raise errors.not_implemented(type(statement).__name__, statement.line)
        if change is not None:
            sql = change.sql
        context.check_mixed(statement.line)
        done = Compiled(
            statement,
            sql,
            frozenset(context.parameters),
            context.attachments,
            output,
            change,
            stored=context.stored,
            cacheable=context.cacheable,
        )
        if cached and context.cacheable:
            self.pool.engine.remember(key, done)
        return done

    # ---- running --------

    def select(self, statement: s.QueryStatement, frame: Frame, *, cached: bool = True) -> ResultSet:
        with self._logged(statement, statement.query.options.get("LABEL")) as request:
            compiled = self.compile(statement, frame, cached=cached)
            request.compiled = moment_now()
            values = self.values(compiled.parameters, frame)
            request.cache = self._uncached(compiled)
            key = (compiled.sql, repr(sorted(values.items())), self.pool.catalog.version, self._data_version())
            found = self.pool.engine.results.get(key) if request.cache == result_cache.MISS else None
            if found is not None:
                request.cache, request.rows = result_cache.HIT, found.table.num_rows
                return found
            table = self.fetch(compiled.sql, values, compiled.attachments, statement.line)
            request.rows = table.num_rows
            result = ResultSet(result_columns(compiled.output), conformed(table, compiled.output))
            if request.cache == result_cache.MISS and not self.pool.engine.results.put(key, result):
                request.cache = -result_cache.TOO_LARGE
        return result

    def _data_version(self) -> int:
        return self.pool.engine.data_version

    def _uncached(self, compiled: Compiled) -> int:
        """Why a query's result isn't cached: 0 when it is, else the reasons as the vendor adds them up."""
        reasons = 0
        setting = self.pool.catalog.setting("OPTION", "RESULT_SET_CACHING")
        if setting is None or setting.options.get("VALUE") != "ON":
            reasons |= result_cache.OFF_IN_DATABASE
        if self.options.get("RESULT_SET_CACHING") == "OFF" or self.transaction_count:
            reasons |= result_cache.OFF_IN_SESSION
        if not compiled.stored:
            reasons |= result_cache.NO_TABLES
        if not compiled.cacheable:
            reasons |= result_cache.SYSTEM_OR_TEMPORARY
        if "$now" in compiled.parameters or _VOLATILE.search(compiled.sql):
            reasons |= result_cache.NOT_DETERMINISTIC
        return -reasons

    def change(self, statement: Any, frame: Frame) -> RowsAffected:
        with self._logged(statement, statement.options.get("LABEL")) as request:
            compiled = self.compile(statement, frame)
            request.compiled = moment_now()
            verb = compiled.change.verb if compiled.change else "INSERT"
            values = self.values(compiled.parameters, frame)
            count = self.run(compiled.sql, values, compiled.attachments, statement.line, verb)
            request.rows = count
        self.row_count = count
        return RowsAffected(None if self.options.get("NOCOUNT") == "ON" else count)

    def define(self, statement: s.Statement, frame: Frame) -> Iterator[Result]:
        """A statement that changes the catalogue."""
        options = getattr(statement, "options", None)
        label = options.get("OPTION.LABEL") if isinstance(options, dict) else None
        if isinstance(statement, s.CreateTableAs):
            label = statement.query.options.get("LABEL")
        with self._logged(statement, label) as request:
            try:
                authority.check(self, statement)  # type: ignore[arg-type]
                results = list(tables.define(self, statement, frame))  # type: ignore[arg-type]
            except duckdb.Error as error:
                raise errors.from_duckdb(error, statement.line) from error
            self.pool.engine.data_version += 1
            for result in results:
                if isinstance(result, RowsAffected) and result.count is not None:
                    request.rows = self.row_count = result.count
        yield from results

    def secure(self, statement: s.Statement, apply: Callable[[Any, Any], None]) -> None:
        """A statement about principals or permissions."""
        with self._logged(statement, None):
            apply(self, statement)

    @contextmanager
    def _logged(self, statement: s.Statement, label: str | None) -> Iterator[Request]:
        with self.pool.engine.requests.running(
            self.spid, self._text(statement), label, self.login, type(statement).__name__
        ) as request:
            self.request = request
            place = workload.place(self, label)  # type: ignore[arg-type]
            request.group, request.classifier = place.group, place.classifier
            request.importance, request.percent = place.importance, place.percent
            with self._limited(place.seconds):
                yield request

    @contextmanager
    def _limited(self, seconds: int) -> Iterator[None]:
        """A workload group's QUERY_EXECUTION_TIMEOUT_SEC: the statement is cancelled when it is over."""
        if not seconds:
            yield
            return
        timer = threading.Timer(seconds, self.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def cancel(self) -> None:
        raise NotImplementedError

    def fetch(self, sql: str, values: dict[str, Any], attachments: Attachments, line: int) -> pa.Table:
        """Run a query and return its rows."""
        self._usable(line)
        with self.attached(attachments, sql, values, line):
            try:
                table = self.cursor.sql(sql, params=values).to_arrow_table()
            except duckdb.Error as error:
                raise self._failed(error, line, "SELECT", attachments) from error
        if self.usage.external:
            self.usage.moved += table.nbytes
        return table

    def run(self, sql: str, values: dict[str, Any], attachments: Attachments, line: int, verb: str) -> int:
        """Run a change and return how many rows it touched; a conflict outside a transaction is tried again."""
        self._usable(line)
        if self.transaction_count and not self.changing:
            self.cursor.execute("BEGIN TRANSACTION")
            self.changing = True
        with self.attached(attachments, sql, values, line):
            for attempt in range(_ATTEMPTS):
                try:
                    found = self.cursor.execute(sql, values or None).fetchall()
                    self.pool.engine.data_version += 1
                    return int(found[0][0]) if found else 0
                except duckdb.TransactionException as error:
                    if self.transaction_count or attempt == _ATTEMPTS - 1 or "onflict" not in str(error):
                        raise self._failed(error, line, verb) from error
                except duckdb.Error as error:
                    raise self._failed(error, line, verb) from error
        return 0

    def _usable(self, line: int) -> None:
        self.check_cancelled(line)
        if self.doomed:
            # https://learn.microsoft.com/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-develop-transactions#transaction-state
            raise SqlError(
                111233,
                "The current transaction has aborted, and any pending changes have been rolled back. Cause: A "
                "transaction in "
                "a rollback-only state was not explicitly rolled back before a DDL, DML, or SELECT statement.",
                line=line,
            )

    def _failed(self, error: duckdb.Error, line: int, verb: str, attachments: Attachments | None = None) -> SqlError:
        if self.transaction_count:
            self.doomed = True
        for scan in (attachments or {}).values():
            if isinstance(scan, LakeScan) and isinstance(scan.error, SqlError):
                scan.error.line = line
                return scan.error
        return errors.from_duckdb(error, line, verb)

    @contextmanager
    def attached(
        self, attachments: Attachments, sql: str = "", values: dict[str, Any] | None = None, line: int = 1
    ) -> Iterator[None]:
        """Register what a statement reads beside DuckDB's own tables. Files are chosen now, and read as it runs."""
        scans = [scan for scan in attachments.values() if isinstance(scan, LakeScan)]
        if scans and self.pool.server is not None:
            self.pool.server.ledger.check(line)
        for name, table in attachments.items():
            self.cursor.register(name, table.opened(self.usage) if isinstance(table, LakeScan) else table)
        try:
            if scans and sql:
                prune(self.cursor, sql, values or {}, scans)
            yield
        finally:
            for name in attachments:
                with suppress(duckdb.Error):  # an aborted transaction drops nothing: the view goes with the rollback
                    self.cursor.unregister(name)

    def check_cancelled(self, line: int) -> None:
        raise NotImplementedError

    def values(self, names: frozenset[str], frame: Frame) -> dict[str, Any]:
        """The parameters that a statement's SQL names."""
        found: dict[str, Any] = {}
        for name in names:
            if name == "$now":
                found["now"] = moment_now()
            else:
                found[parameter_name(name)] = bindable(frame.variables[name].value)
        return found

    def _text(self, statement: s.Node) -> str:
        return getattr(statement, "batch_text", "") or type(statement).__name__

    # ---- single values --------

    def evaluate(self, expr: s.Expr, frame: Frame, line: int) -> tuple[SqlType, Any]:
        """The value of an expression outside a query, with its type."""
        compiler = self.compiler(frame)
        value = compiler.value(expr, Scope())
        if value.null:
            return INT, None
        return value.type, self._one(f"SELECT {value.sql}", compiler.context, frame, expr, line)

    def _one(self, sql: str, context: Context, frame: Frame, expr: s.Node, line: int) -> Any:
        values = self.values(frozenset(context.parameters), frame)
        if reads_rows(expr) or context.attachments:
            table = self.fetch(sql, values, context.attachments, line)
        else:  # values alone are worked out beside the transaction, so that an error can't doom it
            try:
                table = self.scratch.sql(sql, params=values).to_arrow_table()
            except duckdb.Error as error:
                raise errors.from_duckdb(error, line) from error
        if table.num_rows > 1:
            raise SqlError(
                512,
                "Subquery returned more than 1 value. This is not permitted when the subquery follows =, !=, <, <= "
                ", >, >= or "
                "when the subquery is used as an expression.",
                line=line,
            )
        return table.column(0)[0].as_py() if table.num_rows else None

    def test(self, condition: s.Expr, frame: Frame, line: int) -> bool:
        """Whether a condition holds; unknown is no."""
        compiler = self.compiler(frame)
        sql = compiler.condition(condition, Scope())
        return bool(self._one(f"SELECT {sql}", compiler.context, frame, condition, line))

    def text_of(self, expr: s.Expr, frame: Frame, line: int) -> str:
        """An expression as PRINT shows it."""
        compiler = self.compiler(frame)
        value = convert(compiler.value(expr, Scope()), SqlType("nvarchar", 4000), line)
        found = self._one(f"SELECT {value.sql}", compiler.context, frame, expr, line)
        return "" if found is None else str(found)

    def converted(self, value: Any, kind: SqlType, target: SqlType, line: int) -> Any:
        """A Python value of one T-SQL type as another: assignment to a variable, which shortens strings silently."""
        if value is None or kind == target:
            return value
        source = Value(f"CAST($x AS {duck(kind)})", kind)
        done = convert(source, target, line)
        try:
            table = self.scratch.sql(f"SELECT {done.sql}", params={"x": bindable(value)}).to_arrow_table()
        except duckdb.Error as error:
            raise errors.from_duckdb(error, line) from error
        return table.column(0)[0].as_py()

    # ---- session --------

    def set_option(self, statement: s.SetOption) -> None:
        """SET: clients send a dozen of these on connect; the ones that would change results are honoured or refused."""
        name, value = statement.name.upper(), statement.value.upper()
        if name.startswith("IDENTITY_INSERT"):
            parts = tuple(statement.name.split(" ", 1)[1].split("."))
            context = self.context(_empty_frame())
            table = context.table(parts, statement.line)
            context.demand("ALTER", parts, table, statement.line)
            self.identity_insert = f"{table.schema}.{table.name}".lower() if value == "ON" else ""
            return
        changes_results = {
            ("ANSI_NULLS", "OFF"),
            ("QUOTED_IDENTIFIER", "OFF"),
            ("CONCAT_NULL_YIELDS_NULL", "OFF"),
            ("ARITHABORT", "OFF"),
            ("FMTONLY", "ON"),
            ("IMPLICIT_TRANSACTIONS", "ON"),
            ("PARSEONLY", "ON"),
            ("NOEXEC", "ON"),
            ("XACT_ABORT", "OFF"),
        }
        if (name, value) in changes_results and name in {
            "FMTONLY",
            "PARSEONLY",
            "NOEXEC",
            "ANSI_NULLS",
            "IMPLICIT_TRANSACTIONS",
        }:
            raise errors.not_implemented(f"SET {name} {value}", statement.line)
        if name == "DATEFIRST" and value != "7":
            raise errors.not_implemented(f"SET DATEFIRST {value}", statement.line)
        if name == "DATEFORMAT" and value != "MDY":
            raise errors.not_implemented(f"SET DATEFORMAT {value}", statement.line)
        if name == "ROWCOUNT" and value != "0":
            raise errors.not_implemented(f"SET ROWCOUNT {value}", statement.line)
        self.options[name] = value

    def server_value(self, name: str, line: int) -> Value:
        """``@@X`` and the session's functions."""
        error = self.error
        integers: dict[str, int | None] = {
            "@@ROWCOUNT": self.row_count,
            "@@TRANCOUNT": self.transaction_count,
            "@@SPID": self.spid,
            "@@ERROR": self.last_error_number,
            "@@DATEFIRST": 7,
            "@@MAX_PRECISION": 38,
            "@@LOCK_TIMEOUT": -1,
            "@@NESTLEVEL": 0,
            "@@OPTIONS": 5496,
            "@@TEXTSIZE": 2147483647,
            "@@MICROSOFTVERSION": 201326592,
            "@@LANGID": 0,
            "@@XACT_STATE": (-2 if self.doomed else 1) if self.transaction_count else 0,
            "@@ERROR_NUMBER": error.number if error else None,
            "@@ERROR_SEVERITY": error.severity if error else None,
            "@@ERROR_STATE": error.state if error else None,
        }
        texts: dict[str, str | None] = {
            "@@VERSION": self.pool.kind.version,
            "@@SERVERNAME": "localhost",
            "@@SERVICENAME": "localhost",
            "@@LANGUAGE": "us_english",
            "@@LOGIN": self.authority.login(self.pool),
            "@@ORIGINAL_LOGIN": self.login,
            "@@HOST_NAME": self.host,
            "@@APP_NAME": self.application,
            "@@SESSION_ID": f"SID{self.spid}",
            "@@ERROR_MESSAGE": error.message if error else None,
            "@@ERROR_PROCEDURE": (error.procedure or None) if error else None,
        }
        key = name.upper()
        if key in integers:
            number = integers[key]
            return Value(
                f"CAST({'NULL' if number is None else number} AS INTEGER)",
                INT,
                literal=None if number is None else str(number),
            )
        if key in texts:
            text = texts[key]
            kind = (
                SqlType("nvarchar", 4000)
                if key == "@@ERROR_MESSAGE"
                else SqlType("nvarchar", 300)
                if key == "@@VERSION"
                else SYSNAME
            )
            return Value(
                "CAST(NULL AS VARCHAR)" if text is None else errors.literal(text), kind, trimmed=True, literal=text
            )
        raise errors.refused(name, line)

    def bulk_load(self, table: str, columns: list[str], data: pa.Table) -> int:
        """Insert Arrow rows into the named columns; the values are converted as an INSERT converts them."""
        from localazure.sql.system_functions import split_object_name

        schema, name = split_object_name(table)
        compiler = self.compiler(_empty_frame())
        target = compiler.target((name,) if name.startswith("#") else (schema, name), 1)
        compiler.context.demand("INSERT", (target.schema, target.name), target, 1)
        return self.insert_arrow(compiler, target, columns or [c.name for c in target.columns], data, 1)

    def insert_arrow(
        self, compiler: ChangeCompiler, target: Table, columns: list[str], data: pa.Table, line: int
    ) -> int:
        """Rows from outside into a table, typed by what Arrow says they are."""
        items: list[str] = []
        named = []
        for index, name in enumerate(columns):
            column = target.column(name)
            if column is None:
                raise errors.invalid_column(name, line)
            kind = from_arrow(data.schema.field(index).type, line)
            sql = f"d.{quote(f'd{index}')}"
            items.append(stored(Value(sql, kind), column, line))
            named.append(column)
        missing = [column for column in target.columns if column not in named]
        items += [compiler.default(column, target, line) for column in missing]
        names = ", ".join(quote(column.name) for column in [*named, *missing])
        renamed = data.rename_columns([f"d{index}" for index in range(len(columns))])
        sql = f'INSERT INTO {target.physical} ({names}) SELECT {", ".join(items)} FROM "loaded$rows" AS d'
        values = self.values(frozenset(compiler.context.parameters), _empty_frame())
        return self.run(sql, values, {"loaded$rows": renamed}, line, "INSERT")


def _lake(compiler: Any, table: Table | None, source: Any) -> tuple[str, RowSource]:
    """The rows of files in a serverless pool: of OPENROWSET, or of an external table."""
    pool = compiler.context.pool
    if table is None:
        return openrowset.openrowset(pool, compiler, source)
    return openrowset.external_table(pool, compiler, table, source)


def moment_now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _empty_frame() -> Frame:
    from localazure.sql.interpreter import Frame

    return Frame()


def bindable(value: Any) -> Any:
    """A Python value as DuckDB binds it: aware datetimes as text, numbers and text as they are."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if value is None or isinstance(value, bool | int | float | str | bytes | Decimal | date | datetime | timedelta):
        return value
    return str(value) if type(value).__name__ == "UUID" else value


def result_columns(output: tuple[OutputColumn, ...]) -> tuple[Column, ...]:
    return tuple(Column(column.name, column.type, column.nullable) for column in output)


def conformed(table: pa.Table, output: tuple[OutputColumn, ...]) -> pa.Table:
    """The Arrow table in the types that the columns declare."""
    wanted = [arrow(column.type) for column in output]
    if all(field.type == kind for field, kind in zip(table.schema, wanted, strict=True)):
        return table
    arrays = [
        column if column.type == kind else _cast(column, kind)
        for column, kind in zip(table.columns, wanted, strict=True)
    ]
    return pa.Table.from_arrays(arrays, names=table.column_names)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_string(kind) and pa.types.is_binary(column.type):
        return column.cast(pa.string())
    return column.cast(kind)


__all__ = ["CHARACTER", "Compiled", "CompiledQuery", "Running", "conformed"]
