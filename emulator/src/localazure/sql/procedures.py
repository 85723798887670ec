"""EXEC: the server's own procedures that clients call, and the user's.

https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/system-stored-procedures-transact-sql
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from localazure.sql import syntax as s
from localazure.sql.authority import no_permission
from localazure.sql.catalog import Procedure, Table
from localazure.sql.parse_expressions import ExpressionParser
from localazure.sql.results import Result, RowsAffected, SqlError, SqlType
from localazure.sql.results_of_rows import like, pick, rows
from localazure.sql.sqltypes import INT, with_length
from localazure.sql.view_columns import declare

if TYPE_CHECKING:
    from localazure.sql.interpreter import Interpreter

Arguments = list[tuple[str, s.Expr, bool]]


def call_procedure(interpreter: Interpreter, statement: s.Execute) -> Iterator[Result]:
    """Run a procedure by name; SqlError 2812 when there is none."""
    from localazure.sql.odbc_procedures import PROCEDURES

    name = statement.name[-1].lower()
    if name == "sp_executesql":
        yield from _executesql(interpreter, statement)
        return
    if name in _SYSTEM or name in PROCEDURES:
        values = [(key.lower(), interpreter.scalar(value, statement.line)) for key, value, _ in statement.args]
        yield from (_SYSTEM.get(name) or PROCEDURES[name])(interpreter, values, statement.line)
        return
    schema = statement.name[-2] if len(statement.name) > 1 else "dbo"
    found = interpreter.session.pool.catalog.find(schema, statement.name[-1])
    if not isinstance(found, Procedure):
        raise SqlError(
            2812, f"Could not find stored procedure '{'.'.join(statement.name)}'.", state=62, line=statement.line
        )
    session = interpreter.session
    access = session.access()
    if access is not None:
        session.context(interpreter.frame).demand("EXECUTE", statement.name, found, statement.line)
    depth = len(session.authority.taken)
    try:
        yield from _user_procedure(interpreter, statement, found)
    finally:
        del session.authority.taken[depth:]


def _user_procedure(interpreter: Interpreter, statement: s.Execute, found: Procedure) -> Iterator[Result]:
    from localazure.sql.interpreter import Frame, Interpreter, Returned, Variable
    from localazure.sql.parse_statements import parse

    definition = parse(found.text)[0]
    if not isinstance(definition, s.CreateProcedure):
        raise SqlError(2812, f"Could not find stored procedure '{found.name}'.", state=62, line=statement.line)
    access = interpreter.session.access()
    chain = None if access is None else (interpreter.session.pool.number, access.directory.owner_of(found.schema))
    frame = Frame(depth=interpreter.frame.depth + 1, procedure=found.name, chain=chain)
    inner = Interpreter(interpreter.session, frame)
    outputs: list[tuple[str, str]] = []
    given: set[str] = set()
    for position, (name, value, output) in enumerate(statement.args):
        if name:
            parameter = next((p for p in definition.parameters if p.name.lower() == name.lower()), None)
        else:
            parameter = definition.parameters[position] if position < len(definition.parameters) else None
        if parameter is None:
            if name:
                raise SqlError(8145, f"{name} is not a parameter for procedure {found.name}.", line=statement.line)
            raise SqlError(
                8144, f"Procedure or function {found.name} has too many arguments specified.", line=statement.line
            )
        frame.variables[parameter.name.lower()] = Variable(with_length(parameter.type, 1))
        kind, evaluated = interpreter.session.evaluate(value, interpreter.frame, statement.line)
        inner.store(parameter.name, kind, evaluated, statement.line)
        given.add(parameter.name.lower())
        if output and isinstance(value, s.Variable):
            outputs.append((parameter.name, value.name))
    for parameter in definition.parameters:
        if parameter.name.lower() in given:
            continue
        if not parameter.output:
            raise SqlError(
                201,
                f"Procedure or function '{found.name}' expects parameter '{parameter.name}', which was not supplied.",
                state=4,
                line=statement.line,
            )
        frame.variables[parameter.name.lower()] = Variable(with_length(parameter.type, 1))
    status = 0
    try:
        yield from inner.run(definition.body)
    except Returned as returned:
        status = returned.status
    except SqlError as error:
        error.procedure = error.procedure or found.name
        raise
    for inside, outside in outputs:
        variable = frame.variables[inside.lower()]
        interpreter.store(outside, variable.type, variable.value, statement.line)
    if statement.result:
        interpreter.store(statement.result, INT, status, statement.line)


class _ParameterParser(ExpressionParser):
    """The declaration list of sp_executesql: ``@a INT, @b VARCHAR(10) OUTPUT``."""

    def declarations(self) -> list[tuple[str, SqlType, bool]]:
        found: list[tuple[str, SqlType, bool]] = []
        while self.token.kind == "variable":
            name = self.advance().text
            self.take("AS")
            kind = self.data_type()
            if self.take("="):
                self.value()
            found.append((name, kind, self.take("OUTPUT") or self.take("OUT")))
            if not self.take(","):
                break
        if self.token.kind != "end":
            raise self.error()
        return found


def _executesql(interpreter: Interpreter, statement: s.Execute) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-executesql-transact-sql"""
    from localazure.sql.interpreter import Frame, Interpreter, Variable

    if not statement.args:
        raise SqlError(
            201,
            "Procedure or function 'sp_executesql' expects parameter '@statement', which was not supplied.",
            state=10,
            line=statement.line,
        )
    text = interpreter.scalar(statement.args[0][1], statement.line)
    declared: list[tuple[str, SqlType, bool]] = []
    if len(statement.args) > 1:
        declared = _ParameterParser(str(interpreter.scalar(statement.args[1][1], statement.line) or "")).declarations()
    frame = Frame(depth=interpreter.frame.depth + 1)
    inner = Interpreter(interpreter.session, frame)
    for name, kind, _ in declared:
        frame.variables[name.lower()] = Variable(with_length(kind, 1))
    outputs: list[tuple[str, str]] = []
    for position, (name, value, output) in enumerate(statement.args[2:]):
        if not name and position >= len(declared):
            raise SqlError(8144, "Procedure or function has too many arguments specified.", line=statement.line)
        target = name or declared[position][0]
        kind, evaluated = interpreter.session.evaluate(value, interpreter.frame, statement.line)
        inner.store(target, kind, evaluated, statement.line)
        if output and isinstance(value, s.Variable):
            outputs.append((target, value.name))
    yield from inner.batch(str(text or ""))
    for inside, outside in outputs:
        variable = frame.variables[inside.lower()]
        interpreter.store(outside, variable.type, variable.value, statement.line)


# ---- the server's own --------

Values = list[tuple[str, Any]]


def _nothing(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """Limits, statistics and pooled connections: there is nothing to change and no row to return."""
    yield RowsAffected(None)


def _data_processed_limit(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/data-processed#cost-control"""
    server = interpreter.session.pool.server
    if server is None:
        raise SqlError(15892, "Stored procedure sp_set_data_processed_limit is not supported.", line=line)
    if interpreter.session.access() is not None:
        raise no_permission(line)
    server.ledger.limit(str(pick(values, "@type", 0)), pick(values, "@limit_tb", 1), line)
    yield RowsAffected(None)


def _add_member(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-addrolemember-transact-sql"""
    yield from _member(interpreter, values, line, add=True)


def _drop_member(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    yield from _member(interpreter, values, line, add=False)


def _member(interpreter: Interpreter, values: Values, line: int, *, add: bool) -> Iterator[Result]:
    role, member = str(pick(values, "@rolename", 0) or ""), str(pick(values, "@membername", 1) or "")
    text = f"ALTER ROLE [{role}] {'ADD' if add else 'DROP'} MEMBER [{member}]"
    yield from interpreter.one(s.RoleMember(line, role, member, add, batch_text=text))


def _session_context(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-set-session-context-transact-sql"""
    key = str(pick(values, "@key", 0) or "")
    if not key:
        raise SqlError(15600, "An invalid parameter or option was specified for procedure 'sp_set_session_context'.",
                       line=line)  # fmt: skip
    interpreter.session.context_values[key.lower()] = pick(values, "@value", 1)
    yield RowsAffected(None)


def _sp_tables(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-tables-transact-sql"""
    from localazure.sql.catalog_rows import entries

    session = interpreter.session
    name, owner = pick(values, "@table_name", 0), pick(values, "@table_owner", 1)
    spec = declare(
        "TABLE_QUALIFIER sysname, TABLE_OWNER sysname, TABLE_NAME sysname, TABLE_TYPE varchar(32), REMARKS varchar(254)"
    )
    found = [
        (session.database, entry.schema, entry.name, "TABLE" if isinstance(entry, Table) else "VIEW", None)
        for entry in entries(session)
        if not isinstance(entry, Procedure) and like(entry.name, name) and like(entry.schema, owner)
    ]
    yield rows(spec, sorted(found, key=lambda row: (row[3], row[1], row[2])))


def _sp_columns(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-columns-transact-sql"""
    from localazure.sql.catalog_rows import ODBC_TYPES, max_length, precision_of, tables_of

    session = interpreter.session
    name, owner = pick(values, "@table_name", 0), pick(values, "@table_owner", 1)
    spec = declare(
        "TABLE_QUALIFIER sysname, TABLE_OWNER sysname, TABLE_NAME sysname, COLUMN_NAME sysname, "
        "DATA_TYPE smallint, TYPE_NAME sysname, PRECISION int, LENGTH int, SCALE smallint, RADIX smallint, "
        "NULLABLE smallint, REMARKS varchar(254), COLUMN_DEF nvarchar(4000), SQL_DATA_TYPE smallint, "
        "SQL_DATETIME_SUB smallint, CHAR_OCTET_LENGTH int, ORDINAL_POSITION int, IS_NULLABLE varchar(254), "
        "SS_DATA_TYPE tinyint"
    )
    found = []
    for table in tables_of(session):
        if not (like(table.name, name) and like(table.schema, owner)):
            continue
        for column in table.columns:
            kind = column.type
            precision, scale = precision_of(kind)
            found.append(
                (
                    session.database,
                    table.schema,
                    table.name,
                    column.name,
                    ODBC_TYPES[kind.name],
                    kind.name,
                    precision,
                    max_length(kind),
                    scale,
                    10 if kind.precision else None,
                    int(column.nullable),
                    None,
                    column.default or None,
                    ODBC_TYPES[kind.name],
                    None,
                    max_length(kind) if kind.length else None,
                    column.column_id,
                    "YES" if column.nullable else "NO",
                    0,
                )
            )
    yield rows(spec, found)


def _sp_pkeys(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    from localazure.sql.catalog_rows import tables_of

    session = interpreter.session
    name = pick(values, "@table_name", 0)
    spec = declare(
        "TABLE_QUALIFIER sysname, TABLE_OWNER sysname, TABLE_NAME sysname, COLUMN_NAME sysname, "
        "KEY_SEQ smallint, PK_NAME sysname"
    )
    found = [
        (session.database, table.schema, table.name, column, index, key.name)
        for table in tables_of(session)
        if like(table.name, name)
        for key in table.keys
        if key.kind == "PRIMARY KEY"
        for index, column in enumerate(key.columns, 1)
    ]
    yield rows(spec, found)


def _sp_rename(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """Columns alone in a dedicated pool; tables have RENAME OBJECT.

    https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-rename-transact-sql
    """
    if str(pick(values, "@objtype", 2, "")).upper() != "COLUMN":
        raise SqlError(103010, "Parse error: sp_rename renames columns alone here. Use RENAME OBJECT.", line=line)
    parts = [part.strip().strip("[]") for part in str(pick(values, "@objname", 0, "")).split(".")]
    if len(parts) < _TABLE_AND_COLUMN:
        raise SqlError(15248, "Either the parameter @objname is ambiguous or the claimed @objtype (COLUMN) is wrong.",
                       severity=11, line=line)  # fmt: skip
    *name, column = ("[" + part.replace("]", "]]") + "]" for part in parts)
    new = str(pick(values, "@newname", 1, "")).replace("]", "]]")
    yield from interpreter.session.execute(f"RENAME OBJECT {'.'.join(name)} COLUMN {column} TO [{new}]")


def _sp_describe(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-describe-first-result-set-transact-sql"""
    from localazure.sql.catalog_rows import TYPE_IDS, max_length, precision_of

    described = interpreter.session.describe(str(pick(values, "@tsql", 0, "")))
    spec = declare(
        "is_hidden bit, column_ordinal int, name sysname, is_nullable bit, system_type_id int, "
        "system_type_name nvarchar(256), max_length smallint, precision tinyint, scale tinyint"
    )
    found = [
        (
            False,
            index,
            column.name or None,
            column.nullable,
            TYPE_IDS[column.type.name][1],
            str(column.type),
            max_length(column.type),
            precision_of(column.type)[0] or 0,
            precision_of(column.type)[1] or 0,
        )
        for index, column in enumerate(described, 1)
    ]
    yield rows(spec, found)


_TABLE_AND_COLUMN = 2
_SYSTEM = {
    "sp_tables": _sp_tables,
    "sp_columns": _sp_columns,
    "sp_columns_100": _sp_columns,
    "sp_pkeys": _sp_pkeys,
    "sp_rename": _sp_rename,
    "sp_describe_first_result_set": _sp_describe,
    "sp_addrolemember": _add_member,
    "sp_droprolemember": _drop_member,
    "sp_set_data_processed_limit": _data_processed_limit,
    "sp_updatestats": _nothing,
    "sp_set_session_context": _session_context,
    "sp_reset_connection": _nothing,
}
