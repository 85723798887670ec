"""The vendor's error numbers, and how DuckDB's exceptions become them.

Numbers: https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/database-engine-events-and-errors
A dedicated pool's own 103010 and 104xxx wrap what SQL Server would call 102; its 111233 is a doomed transaction:
https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-develop-transactions
"""

from __future__ import annotations

import re

import duckdb

from localazure.sql.results import SqlError, SqlType

MARK = "TSQL"
CANCELLED = 3617
UNDOCUMENTED = 100000  # an error that the vendor raises under a number it doesn't publish
INTERNAL = 8624


def syntax(near: str, line: int) -> SqlError:
    return SqlError(102, f"Incorrect syntax near '{near}'.", severity=15, line=line)


def refused(construct: str, line: int, why: str = "") -> SqlError:
    """A construct the pool itself doesn't have: a dedicated pool answers with a parse error."""
    tail = f" {why}" if why else ""
    return SqlError(
        103010,
        f"Parse error at line: {line}: Incorrect syntax near '{construct}'. {construct} is not supported.{tail}",
        line=line,
    )


def unsupported(construct: str, line: int) -> SqlError:
    """What a serverless pool refuses: 15868."""
    return SqlError(15868, f"{construct} is not supported.", line=line)


def not_implemented(construct: str, line: int, why: str = "") -> SqlError:
    """A construct the pool has and localazure hasn't."""
    tail = f" {why}" if why else ""
    return SqlError(40517, f"{construct} is not implemented by localazure.{tail}", line=line)


def no_security(construct: str, line: int) -> SqlError:
    """A statement that hides rows or values. Taken and not enforced, it would make a script look safe that isn't."""
    return not_implemented(construct, line, "Nothing would enforce it.")


def denied(permission: str, where: tuple[str, str, str], line: int, column: str = "") -> SqlError:
    """229, or 230 of a column; ``where``: database, schema, name.

    https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/mssqlserver-229-database-engine-error
    """
    database, schema, name = where
    inside = f"column '{column}' of the " if column else ""
    return SqlError(
        230 if column else 229,
        f"The {permission} permission was denied on the {inside}object '{name}', database '{database}', schema "
        f"'{schema}'.",
        state=1 if column else 5,
        severity=14,
        line=line,
    )


def denied_on_database(permission: str, database: str, line: int) -> SqlError:
    return SqlError(262, f"{permission} permission denied in database '{database}'.", severity=14, line=line)


def invalid_object(name: str, line: int) -> SqlError:
    return SqlError(208, f"Invalid object name '{name}'.", line=line)


def invalid_column(name: str, line: int) -> SqlError:
    return SqlError(207, f"Invalid column name '{name}'.", line=line)


def unbound(name: str, line: int) -> SqlError:
    return SqlError(4104, f'The multi-part identifier "{name}" could not be bound.', line=line)


def ambiguous(name: str, line: int) -> SqlError:
    return SqlError(209, f"Ambiguous column name '{name}'.", line=line)


def undeclared(name: str, line: int) -> SqlError:
    return SqlError(137, f'Must declare the scalar variable "{name}".', severity=15, line=line)


def operand_clash(left: SqlType, right: SqlType, line: int) -> SqlError:
    return SqlError(206, f"Operand type clash: {left.name} is incompatible with {right.name}", line=line)


def bad_operator(op: str, left: SqlType, right: SqlType, line: int) -> SqlError:
    names = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "%": "modulo"}
    word = names.get(op, op)
    return SqlError(
        402, f"The data types {left.name} and {right.name} are incompatible in the {word} operator.", line=line
    )


def argument_count(name: str, wanted: str, line: int) -> SqlError:
    return SqlError(174, f"The {name.lower()} function requires {wanted} argument(s).", severity=15, line=line)


def raise_sql(number: int, message: str, duck_type: str = "INTEGER") -> str:
    """A DuckDB expression of ``duck_type`` that raises this error when evaluated; ``message`` is a string expression.

    A cast that must fail, not DuckDB's error(): that one is volatile, so GROUP BY and TRY refuse what contains it.
    """
    text = f"('{MARK}:{number}:' || {message} || ':{MARK}')"
    if duck_type in {"VARCHAR", "BLOB"}:  # any text casts to these
        inner = f"CAST(CAST({text} AS INTEGER) AS VARCHAR)"
        return inner if duck_type == "VARCHAR" else f"CAST({inner} AS BLOB)"
    return f"CAST({text} AS {duck_type})"


def literal(text: str) -> str:
    """A DuckDB string literal."""
    return "'" + text.replace("'", "''") + "'"


_MARKED = re.compile(rf"{MARK}:(\d+):(.*?):{MARK}", re.DOTALL)
_NOT_NULL = re.compile(r"NOT NULL constraint failed: ([^\s.]+)\.(\S+)")
_CONVERT = re.compile(r"Could not convert (?:string|\w+) '(.*?)' to (\w+)", re.DOTALL)
_GROUP = re.compile(r'[Cc]olumn "?([^"]+?)"? must appear in the GROUP BY')
_DUCK_NAMES = {
    "INT32": "int",
    "INT64": "bigint",
    "INT16": "smallint",
    "UINT8": "tinyint",
    "DOUBLE": "float",
    "FLOAT": "real",
    "BOOL": "bit",
    "INTEGER": "int",
    "BIGINT": "bigint",
    "DECIMAL": "numeric",
}


def from_duckdb(error: duckdb.Error, line: int, verb: str = "INSERT") -> SqlError:
    """The vendor's error for an exception of DuckDB at execution. What has no counterpart keeps DuckDB's words.

    Names and types are bound before DuckDB sees a statement, so what arrives here is about values.
    """
    text = str(error)
    marked = _MARKED.search(text)
    if marked:
        return SqlError(int(marked.group(1)), marked.group(2), line=line)
    if isinstance(error, duckdb.InterruptException):
        return SqlError(3617, "Operation cancelled by user.", severity=11, line=line)
    if "ivision by zero" in text:
        return SqlError(8134, "Divide by zero error encountered.", line=line)
    if found := _NOT_NULL.search(text):
        table, column = (part.strip('"') for part in found.groups())
        return SqlError(
            515,
            f"Cannot insert the value NULL into column '{column}', table '{table}'; "
            f"column does not allow nulls. {verb} fails.",
            state=2,
            line=line,
        )
    if found := _GROUP.search(text):
        return SqlError(
            8120,
            f"Column '{found.group(1)}' is invalid in the select list because it is not contained in either "
            "an aggregate function or the GROUP BY clause.",
            line=line,
        )
    if isinstance(error, duckdb.OutOfRangeException) or "out of range" in text.lower() or "overflow" in text.lower():
        return SqlError(8115, "Arithmetic overflow error converting expression to data type.", state=2, line=line)
    if found := _CONVERT.search(text):
        target = _DUCK_NAMES.get(found.group(2).upper(), found.group(2).lower())
        return SqlError(
            245,
            f"Conversion failed when converting the varchar value '{found.group(1)}' to data type {target}.",
            line=line,
        )
    if isinstance(error, duckdb.ConversionException):
        return SqlError(8114, f"Error converting data type. {_first_line(text)}", state=5, line=line)
    if isinstance(error, duckdb.TransactionException) and "onflict" in text:
        return SqlError(
            1205,
            "Transaction was deadlocked on resources with another process and has been chosen as the deadlock "
            "victim. Rerun the transaction.",
            severity=13,
            state=45,
            line=line,
        )
    if isinstance(error, duckdb.CatalogException) and "does not exist" in text:  # dropped by another session meanwhile
        return SqlError(208, f"Invalid object name. {_first_line(text)}", line=line)
    if "A target row matched more than one source row" in text:
        return SqlError(
            8672,
            "The MERGE statement attempted to UPDATE or DELETE the same row more than once. This happens when a target "
            "row matches more than one source row.",
            line=line,
        )
    if "More than one row returned by a subquery" in text:
        return SqlError(
            512,
            "Subquery returned more than 1 value. This is not permitted when the subquery follows =, !=, <, <= , "
            ">, >= or when the subquery is used as an expression.",
            line=line,
        )
    return SqlError(
        INTERNAL, f"Internal query processor error: the engine refused the statement: {_first_line(text)}", line=line
    )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]
