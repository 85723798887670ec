"""The lint warnings: T-SQL that a Synapse pool runs, but badly, each with the vendor's page that says so.

Pure. Each rule is a generator over a `Script` that yields (line, message).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from azflow import tsql
from azflow.tsql import Statement, Token
from azflow.tsql_rules import DW, STATEMENTS, SYNAPSE, Script, created, rule, sequences, with_options

MANY_PARTITIONS = 60
"""Boundaries from which we ask whether each piece of a columnstore (60 to a partition) gets its million rows."""
WIDE_CHARACTERS = 4000
"""Length from which a character column counts as oversized."""


def _schema(table: str) -> str:
    return table.rsplit(".", 1)[0].rsplit(".", 1)[-1] if "." in table else ""


def _queries_from_star(statement: Statement) -> Iterator[Token]:
    """Each * that stands for all columns: directly behind SELECT [DISTINCT|TOP n], a comma, or `alias.`"""
    tokens = statement.tokens
    for index, token in enumerate(tokens):
        if token.text == "*" and index and tokens[index - 1].upper in ("SELECT", "DISTINCT", ".", "ALL"):
            yield token


def _parts(tokens: Sequence[Token], keyword: str, ends: frozenset[str]) -> Iterator[list[Token]]:
    """What follows each `keyword`, up to a word of `ends` at its depth or the parenthesis that closes around it."""
    for index, token in enumerate(tokens):
        if token.upper != keyword:
            continue
        part: list[Token] = []
        for inner in tokens[index + 1 :]:
            if inner.depth < token.depth or (inner.depth == token.depth and inner.upper in ends):
                break
            part.append(inner)
        yield part


_CLAUSE_END = frozenset(
    ("GROUP", "ORDER", "HAVING", "UNION", "EXCEPT", "INTERSECT", "OPTION", "WHERE", "SELECT", "WHEN")
)
_JOIN_END = _CLAUSE_END | frozenset(("JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "OUTER", "SET"))


# loading and tables


@rule(
    "staging-columnstore",
    "warning",
    "A staging table (schema stg or staging) that isn't a HEAP",
    f"{SYNAPSE}/sql/data-loading-best-practices",
    "dedicated",
)
def _staging_columnstore(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("create_table", "ctas"):
        table = created(statement)
        if _schema(table) not in ("stg", "staging", "stage"):
            continue
        if not any(token.upper == "HEAP" for token in with_options(statement)):
            yield (
                statement.line,
                f"{table} is loaded and dropped again: WITH (HEAP, DISTRIBUTION = ROUND_ROBIN) loads fastest",
            )


@rule(
    "partition-count",
    "warning",
    "So many partitions on a columnstore that its pieces stay below a million rows",
    f"{DW}-tables-partition",
    "dedicated",
)
def _partition_count(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("create_table", "ctas"):
        options = with_options(statement)
        words = [token.upper for token in options]
        if "PARTITION" not in words or "HEAP" in words:
            continue
        depth = options[words.index("PARTITION")].depth
        inside = [t for t in options[words.index("PARTITION") :] if t.depth > depth + 1]
        boundaries = sum(1 for token in inside if token.kind in ("string", "number"))
        if boundaries >= MANY_PARTITIONS:
            yield (
                statement.line,
                f"{boundaries + 1} partitions x 60 distributions want {(boundaries + 1) * 60:,} million rows",
            )


@rule(
    "select-star",
    "warning",
    "SELECT * in CTAS, CETAS, a view, or any query of a serverless pool",
    f"{SYNAPSE}/sql/best-practices-dedicated-sql-pool",
)
def _select_star(script: Script) -> Iterator[tuple[int, str]]:
    kinds = ("ctas", "cetas", "create_view", "create_materialized_view")
    for statement in script.statements:
        if statement.kind in kinds or (script.pool == "serverless" and statement.kind == "select"):
            for token in _queries_from_star(statement):
                yield token.line, "SELECT * takes whatever columns come tomorrow; name the columns"


@rule(
    "no-statistics",
    "warning",
    "A loaded table without CREATE or UPDATE STATISTICS afterwards",
    f"{SYNAPSE}/sql/develop-tables-statistics",
    "dedicated",
)
def _no_statistics(script: Script) -> Iterator[tuple[int, str]]:
    loaded: dict[str, int] = {}
    for statement in script.statements:
        if statement.kind == "copy":
            loaded[tsql.object_name(statement.tokens, 2)[0]] = statement.line
        elif statement.kind == "ctas" and not created(statement).startswith("#"):
            loaded[created(statement)] = statement.line
        elif statement.kind in ("create_statistics", "update_statistics"):
            index = statement.find("ON") + 1 if statement.kind == "create_statistics" else 2
            loaded.pop(tsql.object_name(statement.tokens, index)[0], None)
        elif statement.kind in ("drop_table", "alter_table", "rename"):
            # dropped again, switched away or renamed: the table of that name is no longer the one just loaded
            for index in range(1, len(statement.tokens)):
                loaded.pop(tsql.object_name(statement.tokens, index)[0], None)
    for table, line in loaded.items():
        yield (
            line,
            f"{table} is loaded and has no statistics afterwards, joins are planned blindly: UPDATE STATISTICS {table}",
        )


@rule(
    "oversized-column",
    "warning",
    "nvarchar(max) and other columns wider than their data",
    f"{DW}-tables-data-types",
    "dedicated",
)
def _oversized_column(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("create_table", "create_external_table"):
        tokens = statement.tokens
        for index, token in enumerate(tokens[:-2]):
            if (
                token.upper not in ("VARCHAR", "NVARCHAR", "VARBINARY", "CHAR", "NCHAR")
                or tokens[index + 1].text != "("
            ):
                continue
            size = tokens[index + 2]
            if size.upper == "MAX" or (size.kind == "number" and int(float(size.text)) >= WIDE_CHARACTERS):
                yield (
                    token.line,
                    f"{token.text}({size.text}): moves and sorts pay for the declared width",
                )


@rule(
    "copy-secret",
    "warning",
    "COPY INTO or a credential with a secret in its text",
    f"{STATEMENTS}/copy-into-transact-sql",
)
def _copy_secret(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("copy", "create"):
        for token in sequences(statement, "SECRET"):
            yield token.line, "the pool's request log keeps this text; use CREDENTIAL = (IDENTITY = 'Managed Identity')"


@rule(
    "row-by-row",
    "warning",
    "INSERT .. VALUES inside a WHILE loop",
    f"{SYNAPSE}/sql/data-loading-best-practices",
    "dedicated",
)
def _row_by_row(script: Script) -> Iterator[tuple[int, str]]:
    blocks: list[bool] = []
    loop = False
    for statement in script.statements:
        if statement.kind == "while":
            loop = True
        elif statement.kind == "begin":
            blocks.append(loop or (bool(blocks) and blocks[-1]))
            loop = False
        elif statement.kind == "end" and blocks:
            blocks.pop()
        elif statement.kind == "insert" and (loop or any(blocks)) and statement.find("VALUES", depth=0) >= 0:
            yield (
                statement.line,
                "single rows cost a round over 60 distributions each; INSERT..SELECT or COPY INTO them at once",
            )
        else:
            loop = False


@rule(
    "no-where",
    "warning",
    "UPDATE or DELETE of a whole table",
    f"{SYNAPSE}/sql/best-practices-dedicated-sql-pool",
    "dedicated",
)
def _no_where(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.of("update", "delete"):
        if statement.find("WHERE", depth=0) < 0:
            yield (
                statement.line,
                f"{statement.kind.upper()} without WHERE logs every row; use CTAS, partition SWITCH or TRUNCATE",
            )


# queries


@rule(
    "join-without-equality",
    "warning",
    "A join whose condition holds no equality",
    f"{SYNAPSE}/sql/best-practices-dedicated-sql-pool",
)
def _join_without_equality(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.statements:
        for part in _joins(statement):
            condition = next(iter(_parts(part, "ON", _JOIN_END)), None)
            if condition is not None and not any(token.text == "=" for token in condition):
                yield part[0].line, "a join without equality compares every row with every row"


def _joins(statement: Statement) -> Iterator[list[Token]]:
    if statement.kind in ("create_statistics", "merge"):
        return
    yield from (part for part in _parts(statement.tokens, "JOIN", _JOIN_END) if part)


@rule(
    "hash-key-mismatch",
    "warning",
    "Two hash-distributed tables of the script, joined on other columns than their keys",
    f"{DW}-tables-distribute",
    "dedicated",
)
def _hash_key_mismatch(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.statements:
        aliases = _aliases(statement)
        for part in _joins(statement):
            joined, _ = tsql.object_name(part, 0)
            key = script.hash_keys.get(joined)
            condition = next(iter(_parts(part, "ON", _JOIN_END)), None)
            if key is None or condition is None:
                continue
            sides = _equalities(condition)
            others = {alias for pair in sides for alias, _ in pair if aliases.get(alias, "") != joined}
            for other in sorted(others):
                other_key = script.hash_keys.get(aliases.get(other, ""))
                aligned = any(
                    {column for _, column in pair} == {key, other_key}
                    for pair in sides
                    if other in {a for a, _ in pair}
                )
                if other_key and not aligned:
                    yield (
                        part[0].line,
                        f"{joined} is hashed on {key}, {aliases[other]} on {other_key}: the join moves rows",
                    )


def _aliases(statement: Statement) -> dict[str, str]:
    """Alias (and bare table name) -> table of every FROM and JOIN."""
    found: dict[str, str] = {}
    tokens = statement.tokens
    for index, token in enumerate(tokens):
        if token.upper in ("FROM", "JOIN"):
            name, after = tsql.object_name(tokens, index + 1)
            if after < len(tokens) and tokens[after].upper == "AS":
                after += 1
            if name:
                found[name.rsplit(".", 1)[-1]] = name
                if after < len(tokens) and tokens[after].kind in ("word", "name"):
                    found[tokens[after].identifier] = name
    return found


def _equalities(condition: Sequence[Token]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """`a.x = b.y` as ((a, x), (b, y))."""
    texts = [token.text if token.kind == "mark" else token.identifier for token in condition]
    size = 7
    return [
        ((texts[i], texts[i + 2]), (texts[i + 4], texts[i + 6]))
        for i in range(len(texts) - size + 1)
        if texts[i + 1] == "." and texts[i + 3] == "=" and texts[i + 5] == "."
    ]


_HIDING_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """YEAR MONTH DAY DATEPART DATENAME DATEDIFF EOMONTH CONVERT CAST SUBSTRING LEFT RIGHT UPPER LOWER LTRIM RTRIM
        ISNULL""",
    )
)


@rule(
    "function-on-filter",
    "warning",
    "WHERE puts a function around a column, so that no partition or segment is skipped",
    f"{SYNAPSE}/sql/best-practices-dedicated-sql-pool",
)
def _function_on_filter(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.statements:
        for part in _parts(statement.tokens, "WHERE", _CLAUSE_END):
            for index, token in enumerate(part[:-1]):
                if (
                    token.upper not in _HIDING_FUNCTIONS
                    or part[index + 1].text != "("
                    or (index and part[index - 1].upper not in ("", "AND", "OR", "NOT", "("))
                ):
                    continue
                inside = [t for t in part[index + 2 :] if t.depth > token.depth]
                close = (
                    index
                    + 2
                    + next((i for i, t in enumerate(part[index + 2 :]) if t.depth == token.depth), len(inside))
                )
                column = any(
                    t.kind == "name" or (t.kind == "word" and "." in (n.text for n in part))
                    for t in part[index + 2 : close]
                )
                if column and close + 1 < len(part) and part[close + 1].text in ("=", "<", ">", "<=", ">=", "<>", "!="):
                    yield (
                        token.line,
                        f"{token.upper}(column) in WHERE reads every segment; compare the bare column with a range",
                    )


@rule(
    "leading-wildcard",
    "warning",
    "LIKE with a pattern that begins with %",
    f"{SYNAPSE}/sql/best-practices-dedicated-sql-pool",
)
def _leading_wildcard(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.statements:
        for index, token in enumerate(statement.tokens[:-1]):
            pattern = statement.tokens[index + 1]
            if token.upper == "LIKE" and pattern.kind == "string" and pattern.text.lstrip("Nn").startswith("'%"):
                yield token.line, f"LIKE {pattern.text} can skip nothing; anchor the pattern or keep a column for it"


@rule(
    "join-cast",
    "warning",
    "A join condition that converts a column: the types on both sides differ",
    f"{SYNAPSE}/sql/best-practices-dedicated-sql-pool",
)
def _join_cast(script: Script) -> Iterator[tuple[int, str]]:
    for statement in script.statements:
        for part in _joins(statement):
            for condition in _parts(part, "ON", _JOIN_END):
                for token in condition:
                    if token.upper in ("CAST", "CONVERT", "TRY_CAST", "TRY_CONVERT"):
                        yield (
                            token.line,
                            f"{token.upper} in a join hides hash key and statistics; store both sides in one type",
                        )


# files read by a serverless pool


def _openrowsets(script: Script) -> Iterator[tuple[Statement, int, list[Token]]]:
    """Each OPENROWSET as (statement, its token's index, the tokens inside its parentheses)."""
    for statement in script.statements:
        tokens = statement.tokens
        for index, token in enumerate(tokens[:-1]):
            if token.upper == "OPENROWSET" and tokens[index + 1].text == "(":
                end = next((i for i in range(index + 2, len(tokens)) if tokens[i].depth <= token.depth), len(tokens))
                yield statement, index, list(tokens[index + 2 : end])


@rule(
    "openrowset-filepath",
    "warning",
    "OPENROWSET over a wildcard without a filepath() predicate",
    f"{SYNAPSE}/sql/query-specific-files",
    "serverless",
)
def _openrowset_filepath(script: Script) -> Iterator[tuple[int, str]]:
    for statement, index, inside in _openrowsets(script):
        wildcard = any(token.kind == "string" and "*" in token.text for token in inside)
        filtered = any(t.upper == "FILEPATH" for part in _parts(statement.tokens, "WHERE", _CLAUSE_END) for t in part)
        if wildcard and not filtered:
            yield statement.tokens[index].line, "every matching file is read and paid for; filter on r.filepath(n)"


@rule(
    "openrowset-schema",
    "warning",
    "OPENROWSET without WITH (column types)",
    f"{SYNAPSE}/sql/best-practices-serverless-sql-pool",
    "serverless",
)
def _openrowset_schema(script: Script) -> Iterator[tuple[int, str]]:
    for statement, index, inside in _openrowsets(script):
        after = index + 2 + len(inside)
        following = [token.upper for token in statement.tokens[after : after + 3]]
        if "WITH" not in following:
            yield statement.tokens[index].line, "inferred columns are varchar(8000); give WITH (name type, ...)"


@rule(
    "csv-parser",
    "warning",
    "OPENROWSET of CSV without PARSER_VERSION = '2.0'",
    f"{SYNAPSE}/sql/best-practices-serverless-sql-pool",
    "serverless",
)
def _csv_parser(script: Script) -> Iterator[tuple[int, str]]:
    for statement, index, inside in _openrowsets(script):
        csv = any(token.text.upper() in ("'CSV'", "N'CSV'") for token in inside)
        if csv and not any(token.upper == "PARSER_VERSION" for token in inside):
            yield statement.tokens[index].line, "PARSER_VERSION = '2.0' reads CSV several times faster"
