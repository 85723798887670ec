"""The shape of a lint rule, and the errors: what a Synapse pool refuses, each with the vendor's page behind it.

Pure. A rule is a generator over a `Script` that yields (line, message); `tsql_advice` has the warnings,
`tsql_lint` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from azflow import tsql
from azflow.tsql import Statement, Token

Severity = Literal["error", "warning"]
Pool = Literal["dedicated", "serverless"]
Check = Callable[["Script"], Iterator[tuple[int, str]]]

SYNAPSE = "https://learn.microsoft.com/en-us/azure/synapse-analytics"
DW = f"{SYNAPSE}/sql-data-warehouse/sql-data-warehouse"
STATEMENTS = "https://learn.microsoft.com/en-us/sql/t-sql/statements"


@dataclass(frozen=True)
class Script:
    """A script as the rules see it: statements with the script's own line numbers, and the tables it makes."""

    pool: Pool
    statements: tuple[Statement, ...]
    hash_keys: dict[str, str | None] = field(default_factory=dict)
    """table -> its hash column; None: distributed otherwise"""

    def of(self, *kinds: str) -> Iterator[Statement]:
        return (statement for statement in self.statements if statement.kind in kinds)


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    severity: Severity
    pools: tuple[Pool, ...]
    summary: str
    page: str
    check: Check


RULES: list[Rule] = []


def rule(id: str, severity: Severity, summary: str, page: str, *pools: Pool) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        RULES.append(Rule(id, severity, pools or ("dedicated", "serverless"), summary, page, check))
        return check

    return register


def read(pool: Pool, statements: Sequence[Statement]) -> Script:
    """A script of `statements`, whose lines are already the script's."""
    keys = {created(s): _hash_key(s) for s in statements if s.kind in ("create_table", "ctas")}
    return Script(pool, tuple(statements), keys)


# reading statements


def created(statement: Statement) -> str:
    return tsql.object_name(statement.tokens, statement.find("TABLE") + 1)[0]


def with_options(statement: Statement) -> tuple[Token, ...]:
    """The tokens of a CREATE TABLE's or CTAS's WITH ( ... ), inside the parentheses."""
    index = statement.find("WITH", "(", depth=0)
    if index < 0:
        return ()
    inside: list[Token] = []
    for token in statement.tokens[index + 2 :]:
        if token.text == ")" and token.depth == 0:
            break
        inside.append(token)
    return tuple(inside)


def _hash_key(statement: Statement) -> str | None:
    options = with_options(statement)
    for index, token in enumerate(options):
        if token.upper == "HASH" and index + 2 < len(options):
            return options[index + 2].identifier
    return None


def _calls(statement: Statement, *names: str) -> Iterator[Token]:
    tokens = statement.tokens
    for index, token in enumerate(tokens[:-1]):
        if token.upper in names and tokens[index + 1].text == "(" and (index == 0 or tokens[index - 1].text != "."):
            yield token


def sequences(statement: Statement, *sequence: str) -> Iterator[Token]:
    words = statement.words()
    for index in range(len(words) - len(sequence) + 1):
        if words[index : index + len(sequence)] == sequence:
            yield statement.tokens[index]


# errors: what a dedicated pool refuses


@rule(
    "ctas-distribution",
    "error",
    "CREATE TABLE AS SELECT without DISTRIBUTION",
    f"{STATEMENTS}/create-table-as-select-azure-sql-data-warehouse",
    "dedicated",
)
def _ctas_distribution(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("ctas"):
        if not any(token.upper == "DISTRIBUTION" for token in with_options(statement)):
            yield statement.line, f"CREATE TABLE {created(statement)} AS SELECT needs WITH (DISTRIBUTION = ...)"


@rule(
    "ddl-in-transaction",
    "error",
    "CREATE, ALTER, DROP, RENAME or TRUNCATE TABLE inside a user transaction",
    f"{DW}-develop-transactions",
    "dedicated",
)
def _ddl_in_transaction(script: Script) -> Iterator[tuple[int, str]]:
    open_line = 0
    for statement in script.statements:
        if statement.kind == "transaction":
            open_line = statement.line if statement.tokens[0].upper == "BEGIN" else 0
        elif open_line and statement.kind.split("_")[0] in ("create", "ctas", "cetas", "alter", "drop", "rename"):
            yield statement.line, f"a pool refuses DDL inside a transaction (begun in line {open_line}); move it out"


@rule(
    "nested-transaction",
    "error",
    "Nested, named or marked transactions, savepoints",
    f"{DW}-develop-transactions",
    "dedicated",
)
def _nested_transaction(script: Script) -> Iterator[tuple[int, str]]:
    open_line = 0
    for statement in script.of("transaction"):
        words = statement.words()
        if words[0] == "SAVE":
            yield statement.line, "a pool has no savepoints; split the work into transactions of its own"
        elif words[0] == "BEGIN":
            if open_line:
                yield statement.line, f"a transaction is open since line {open_line}; a pool doesn't nest them"
            if words[2:]:
                yield statement.line, "a pool takes BEGIN TRAN without a name or mark"
            open_line = statement.line
        else:
            open_line = 0


_REFUSED_CALLS = {
    "CHOOSE": "use CASE",
    "TRANSLATE": "use nested REPLACE",
    "STRING_ESCAPE": "use REPLACE",
    "PARSE": "use CAST or CONVERT",
    "TRY_PARSE": "use TRY_CAST",
    "OPENXML": "read such files in Spark",
    "OPENQUERY": "copy the data into the pool first",
    "ERROR_LINE": "log ERROR_MESSAGE() and ERROR_NUMBER()",
}
_REFUSED_FIRST_WORDS = {
    "goto": "GOTO",
    "return": "RETURN outside a procedure",
    "use": "USE: connect to the database itself",
    "waitfor": "WAITFOR",
    "continue": "CONTINUE",
}
_REFUSED_SEQUENCES = {
    ("FOR", "XML"): "FOR XML",
    ("FOR", "JSON"): "FOR JSON",
    ("FETCH", "NEXT"): "OFFSET/FETCH: use TOP, or ROW_NUMBER() in a subquery",
    ("FETCH", "FIRST"): "OFFSET/FETCH: use TOP, or ROW_NUMBER() in a subquery",
}


@rule(
    "refused-construct",
    "error",
    "What a dedicated pool doesn't have: OFFSET/FETCH, FOR XML/JSON, CHOOSE, TRANSLATE, STRING_ESCAPE, PARSE,"
    " OPENROWSET, OPENXML,"
    " table variables, cross-database names, CONTINUE, GOTO, USE, WAITFOR, RETURN, INSERT..EXEC,"
    " default parameters, ERROR_LINE",
    f"{SYNAPSE}/sql/overview-features",
    "dedicated",
)
def _refused_construct(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.statements:
        if statement.kind in _REFUSED_FIRST_WORDS:
            yield statement.line, f"a dedicated pool has no {_REFUSED_FIRST_WORDS[statement.kind]}"
        for token in _calls(statement, *_REFUSED_CALLS):
            yield token.line, f"a dedicated pool has no {token.upper}(); {_REFUSED_CALLS[token.upper]}"
        for token in _calls(statement, "OPENROWSET"):
            yield token.line, "a dedicated pool has no OPENROWSET; use COPY INTO or an external table"
        for sequence, name in _REFUSED_SEQUENCES.items():
            for token in sequences(statement, *sequence):
                yield token.line, f"a dedicated pool has no {name}"
        if statement.kind == "declare":
            for token in sequences(statement, "TABLE"):
                yield token.line, "a dedicated pool has no table variables; use a temporary table (#name)"
        if statement.kind == "insert" and any(
            t.depth == 0 and t.upper in ("EXEC", "EXECUTE") for t in statement.tokens
        ):
            yield statement.line, "a dedicated pool has no INSERT..EXEC; let the procedure write the table"
        if statement.kind == "create_procedure":
            yield from _default_parameters(statement)
        yield from _cross_database(statement)


def _default_parameters(statement: Statement) -> Iterator[tuple[int, str]]:
    tokens = statement.tokens
    for index, token in enumerate(tokens):
        if token.upper == "AS" and token.depth == 0 and not (index and tokens[index - 1].kind == "variable"):
            return
        if token.text == "=" and any(before.kind == "variable" for before in tokens[max(0, index - 6) : index]):
            yield token.line, "a dedicated pool's procedures have no default parameters; pass every value"


def _cross_database(statement: Statement) -> Iterator[tuple[int, str]]:
    tokens = statement.tokens
    for index, token in enumerate(tokens):
        if (
            token.upper in ("FROM", "JOIN", "INTO")
            and index + 1 < len(tokens)
            and tokens[index + 1].kind in ("word", "name")
        ):
            name, _ = tsql.object_name(tokens, index + 1)
            if name.count(".") > 1 and not name.startswith("tempdb."):
                yield tokens[index + 1].line, f"{name}: a dedicated pool has no cross-database names; use schema.object"


@rule(
    "merge-non-hash",
    "error",
    "MERGE with NOT MATCHED BY TARGET into a table that isn't hash-distributed",
    f"{STATEMENTS}/merge-transact-sql",
    "dedicated",
)
def _merge_non_hash(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("merge"):
        target, _ = tsql.object_name(statement.tokens, 2 if statement.words()[1] == "INTO" else 1)
        inserts = (
            statement.has("NOT", "MATCHED", "THEN")
            or statement.has("NOT", "MATCHED", "BY", "TARGET")
            or statement.has("NOT", "MATCHED", "AND")
        )
        if inserts and target in script.hash_keys and script.hash_keys[target] is None:
            yield (
                statement.line,
                f"{target} is created above without DISTRIBUTION = HASH: a pool refuses to MERGE new rows into it",
            )


THROW_NUMBERS = range(100_000, 150_001)


@rule(
    "throw-number",
    "error",
    "THROW with a number outside 100000 to 150000",
    "https://learn.microsoft.com/en-us/sql/t-sql/language-elements/throw-transact-sql",
    "dedicated",
)
def _throw_number(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("throw"):
        number = statement.tokens[1] if len(statement.tokens) > 1 else None
        if number is not None and number.kind == "number" and int(float(number.text)) not in THROW_NUMBERS:
            yield statement.line, f"a pool throws numbers from 100000 to 150000 only, not {number.text}"


# errors: what a serverless pool refuses


_SERVERLESS_REFUSED = {
    "create_table": "tables",
    "ctas": "CREATE TABLE AS SELECT (CETAS writes files)",
    "insert": "INSERT",
    "update": "UPDATE",
    "delete": "DELETE",
    "merge": "MERGE",
    "copy": "COPY INTO",
    "create_materialized_view": "materialised views",
    "truncate": "TRUNCATE",
    "rename": "RENAME",
}


@rule(
    "serverless-refused",
    "error",
    "What a serverless pool doesn't have: tables, CTAS, INSERT/UPDATE/DELETE/MERGE/COPY, labels and hints,"
    " GROUPING SETS, scalar functions,"
    " materialised views",
    f"{SYNAPSE}/sql/overview-features",
    "serverless",
)
def _serverless_refused(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.statements:
        words = statement.words()
        temporary = statement.kind == "create_table" and created(statement).startswith("#")
        if (
            statement.kind in _SERVERLESS_REFUSED
            and not temporary
            and not (statement.kind == "insert" and "#" in _target(statement))
        ):
            yield statement.line, f"a serverless pool has no {_SERVERLESS_REFUSED[statement.kind]}"
        if statement.find("OPTION", "(", depth=0) >= 0:
            yield (
                statement.tokens[statement.find("OPTION", "(", depth=0)].line,
                "a serverless pool takes no labels or query hints",
            )
        if statement.has("GROUPING", "SETS"):
            yield (
                statement.tokens[statement.find("GROUPING", "SETS")].line,
                "a serverless pool has no GROUPING SETS; use UNION ALL",
            )
        if statement.kind == "create_function" and "TABLE" not in words:
            yield statement.line, "a serverless pool has no scalar functions; use an inline table-valued one"


def _target(statement: Statement) -> str:
    index = statement.find("INTO", depth=0)
    first = {"insert": 1, "update": 1, "delete": 1}.get(statement.kind, 1)
    if statement.tokens[0].upper == "WITH":
        first = next(
            (i + 1 for i, t in enumerate(statement.tokens) if t.depth == 0 and t.upper.lower() == statement.kind), 1
        )
    if statement.kind == "delete" and len(statement.tokens) > first and statement.tokens[first].upper == "FROM":
        first += 1
    return tsql.object_name(statement.tokens, index + 1 if index >= 0 else first)[0]
