"""The catalogue procedures that ODBC drivers call for SQLForeignKeys, SQLStatistics, SQLProcedures and the like.

https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/catalog-stored-procedures-transact-sql
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from localazure.sql import syntax as s
from localazure.sql.catalog import Procedure
from localazure.sql.catalog_rows import ODBC_TYPES, entries, max_length, precision_of, tables_of
from localazure.sql.parse_statements import parse
from localazure.sql.results import Result
from localazure.sql.results_of_rows import like, pick, rows
from localazure.sql.view_columns import declare

if TYPE_CHECKING:
    from localazure.sql.interpreter import Interpreter

Values = list[tuple[str, Any]]


def _fkeys(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """Neither pool has foreign keys."""
    yield rows(
        declare(
            "PKTABLE_QUALIFIER sysname, PKTABLE_OWNER sysname, PKTABLE_NAME sysname, PKCOLUMN_NAME sysname, "
            "FKTABLE_QUALIFIER sysname, FKTABLE_OWNER sysname, FKTABLE_NAME sysname, FKCOLUMN_NAME sysname, "
            "KEY_SEQ smallint, UPDATE_RULE smallint, DELETE_RULE smallint, FK_NAME sysname, PK_NAME sysname, "
            "DEFERRABILITY smallint"
        ),
        [],
    )


def _special_columns(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """Keys aren't enforced, so that no column tells rows apart for certain."""
    yield rows(
        declare(
            "SCOPE smallint, COLUMN_NAME sysname, DATA_TYPE smallint, TYPE_NAME sysname, PRECISION int, LENGTH int, "
            "SCALE smallint, PSEUDO_COLUMN smallint"
        ),
        [],
    )


def _statistics(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    """A row for each table's size, one for each column of a key."""
    session = interpreter.session
    name, owner = pick(values, "@table_name", 0), pick(values, "@table_owner", 1)
    spec = declare(
        "TABLE_QUALIFIER sysname, TABLE_OWNER sysname, TABLE_NAME sysname, NON_UNIQUE smallint, "
        "INDEX_QUALIFIER sysname, INDEX_NAME sysname, TYPE smallint, SEQ_IN_INDEX smallint, COLUMN_NAME sysname, "
        "COLLATION char(1), CARDINALITY int, PAGES int, FILTER_CONDITION varchar(128)"
    )
    found: list[tuple[Any, ...]] = []
    for table in tables_of(session):
        if table.external is not None or not (like(table.name, name) and like(table.schema, owner)):
            continue
        count = session.cursor.execute(f"SELECT count(*) FROM {table.physical}").fetchall()[0][0]
        head = (session.database, table.schema, table.name)
        found.append((*head, None, None, None, 0, None, None, None, count, None, None))
        for key in table.keys:
            for position, column in enumerate(key.columns, 1):
                found.append((*head, 0, table.name, key.name, 3, position, column, "A", count, None, None))
    yield rows(spec, found)


def _definitions(interpreter: Interpreter, name: Any, owner: Any) -> list[tuple[Procedure, s.CreateProcedure]]:
    found = []
    for entry in entries(interpreter.session):
        if isinstance(entry, Procedure) and like(entry.name, name) and like(entry.schema, owner):
            definition = parse(entry.text)[0]
            if isinstance(definition, s.CreateProcedure):
                found.append((entry, definition))
    return sorted(found, key=lambda pair: pair[0].key)


def _stored_procedures(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    spec = declare(
        "PROCEDURE_QUALIFIER sysname, PROCEDURE_OWNER sysname, PROCEDURE_NAME nvarchar(134), NUM_INPUT_PARAMS int, "
        "NUM_OUTPUT_PARAMS int, NUM_RESULT_SETS int, REMARKS varchar(254), PROCEDURE_TYPE smallint"
    )
    listed = _definitions(interpreter, pick(values, "@sp_name", 0), pick(values, "@sp_owner", 1))
    database = interpreter.session.database
    yield rows(spec, [(database, p.schema, f"{p.name};1", -1, -1, -1, None, 2) for p, _ in listed])


def _sproc_columns(interpreter: Interpreter, values: Values, line: int) -> Iterator[Result]:
    spec = declare(
        "PROCEDURE_QUALIFIER sysname, PROCEDURE_OWNER sysname, PROCEDURE_NAME nvarchar(134), COLUMN_NAME sysname, "
        "COLUMN_TYPE smallint, DATA_TYPE smallint, TYPE_NAME sysname, PRECISION int, LENGTH int, SCALE smallint, "
        "RADIX smallint, NULLABLE smallint, REMARKS varchar(254), ORDINAL_POSITION int"
    )
    found = []
    for entry, definition in _definitions(
        interpreter, pick(values, "@procedure_name", 0), pick(values, "@procedure_owner", 1)
    ):
        for number, parameter in enumerate(definition.parameters, 1):
            kind = parameter.type
            precision, scale = precision_of(kind)
            found.append(
                (
                    interpreter.session.database,
                    entry.schema,
                    f"{entry.name};1",
                    parameter.name,
                    2 if parameter.output else 1,
                    ODBC_TYPES[kind.name],
                    kind.name,
                    precision,
                    max_length(kind),
                    scale,
                    10 if kind.precision else None,
                    1,
                    None,
                    number,
                )
            )
    yield rows(spec, found)


PROCEDURES: dict[str, Callable[[Interpreter, Values, int], Iterator[Result]]] = {
    "sp_fkeys": _fkeys,
    "sp_special_columns": _special_columns,
    "sp_special_columns_100": _special_columns,
    "sp_statistics": _statistics,
    "sp_statistics_100": _statistics,
    "sp_stored_procedures": _stored_procedures,
    "sp_sproc_columns": _sproc_columns,
    "sp_sproc_columns_100": _sproc_columns,
}
