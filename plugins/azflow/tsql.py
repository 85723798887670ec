"""T-SQL text as tokens, batches and statements: enough to label, bind and check a script, not a grammar.

Pure: values in, values out; no database, no SDK. Lines are 1-based, offsets are characters in the text handed in.

Lexical rules: https://learn.microsoft.com/en-us/sql/t-sql/language-elements/transact-sql-syntax-conventions-transact-sql
GO:            https://learn.microsoft.com/en-us/sql/t-sql/language-elements/sql-server-utilities-statements-go
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TokenKind = Literal["word", "name", "variable", "string", "number", "mark"]

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>--[^\n]*)
  | (?P<block>/\*)
  | (?P<string>N?'(?:[^']|'')*')
  | (?P<name>\[(?:[^\]]|\]\])*\]|"(?:[^"]|"")*")
  | (?P<variable>@@?[\w$#]+)
  | (?P<number>0[xX][0-9a-fA-F]*|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
  | (?P<word>[^\W\d][\w$#@]*|\#{1,2}[\w$#@]+)
  | (?P<mark><=|>=|<>|!=|\+=|-=|::|[^\s\w])
    """,
    re.VERBOSE,
)
_GO = re.compile(r"[ \t]*GO(?:[ \t]+(\d+))?[ \t]*;?[ \t]*(?:--[^\n]*)?\r?$", re.IGNORECASE)

_STARTERS = frozenset(
    re.findall(
        r"\w+",
        """ALTER BEGIN BREAK COMMIT CONTINUE COPY CREATE DBCC DECLARE DELETE DENY DROP ELSE END EXEC EXECUTE EXPLAIN
        GOTO GRANT IF INSERT KILL MERGE PRINT RAISERROR RENAME RETURN REVOKE ROLLBACK SAVE SELECT SET THROW TRUNCATE
        UPDATE USE WAITFOR WHILE""",
    )
)
_DROPPABLE = frozenset(
    re.findall(
        r"\w+",
        """DATABASE EXTERNAL FUNCTION INDEX LOGIN MATERIALIZED PROC PROCEDURE ROLE SCHEMA STATISTICS SYNONYM TABLE
        USER VIEW WORKLOAD""",
    )
)
_CONTINUE_SELECT = frozenset({"UNION", "ALL", "EXCEPT", "INTERSECT", "AS", "EXPLAIN"})
_BLOCK_WORDS = frozenset({"BEGIN", "END", "ELSE"})

LABEL_LIMIT = 255
"""Characters a label may have: https://learn.microsoft.com/en-us/sql/t-sql/queries/option-clause-transact-sql"""


class TsqlTextError(ValueError):
    """The text can't be split into tokens. `line` is where the unfinished piece begins."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(f"line {line}: {message}")
        self.problem = message
        self.line = line


class UnboundParameter(TsqlTextError):
    """A batch uses `@name`, which it doesn't declare and nobody gave a value for."""

    def __init__(self, name: str, line: int) -> None:
        super().__init__(f"{name} has no value", line)
        self.name = name


@dataclass(frozen=True, slots=True)
class Token:
    kind: TokenKind
    text: str
    start: int
    line: int
    depth: int  # open parentheses around the token; a parenthesis has the depth outside itself

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def upper(self) -> str:
        """The word for comparisons; empty for quoted names and strings, which are never keywords."""
        return self.text.upper() if self.kind in ("word", "mark", "variable") else ""

    @property
    def identifier(self) -> str:
        """The name without its quotes, lower case: names on a pool compare without case."""
        if self.kind == "name":
            close = self.text[-1]
            return self.text[1:-1].replace(close * 2, close).lower()
        return self.text.lower()


@dataclass(frozen=True, slots=True)
class Batch:
    """What lies between two GO lines. `line` is the script's line on which `text` begins; `times` is GO's count."""

    text: str
    line: int
    times: int = 1


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a batch.

    `kind` is lower case: select, insert, update, delete, merge, ctas, cetas, create_table, create_view,
    create_procedure, copy, exec, declare, set, if, while, begin, end, else, transaction, ... or the first word.
    """

    kind: str
    tokens: tuple[Token, ...]

    @property
    def line(self) -> int:
        return self.tokens[0].line

    @property
    def start(self) -> int:
        return self.tokens[0].start

    @property
    def end(self) -> int:
        return self.tokens[-1].end

    def words(self) -> tuple[str, ...]:
        return tuple(token.upper for token in self.tokens)

    def find(self, *sequence: str, depth: int | None = None) -> int:
        """Index of the first token where the words `sequence` follow each other (at `depth`), or -1."""
        words = self.words()
        size = len(sequence)
        for index in range(len(words) - size + 1):
            if words[index : index + size] == sequence and (depth is None or self.tokens[index].depth == depth):
                return index
        return -1

    def has(self, *sequence: str) -> bool:
        return self.find(*sequence) >= 0


def tokenize(text: str) -> tuple[Token, ...]:
    """The tokens of `text` without white space and comments.

    Raises TsqlTextError for a string, quoted name or comment that never ends.
    """
    return tuple(token for token in _scan(text) if isinstance(token, Token))


def comments(text: str) -> tuple[tuple[int, str], ...]:
    """Each comment as (line, text), in order."""
    return tuple((text.count("\n", 0, start) + 1, text[start:end]) for start, end in _comment_spans(text))


def without_comments(text: str) -> str:
    """The same text with every comment blanked, all offsets and lines kept."""
    pieces = list(text)
    for start, end in _comment_spans(text):
        for index in range(start, end):
            if pieces[index] != "\n":
                pieces[index] = " "
    return "".join(pieces)


def batches(text: str) -> tuple[Batch, ...]:
    """The script's batches, split at lines that hold only GO (outside strings and comments); empty ones are dropped."""
    masked = _mask(text)
    result: list[Batch] = []
    begin, begin_line, position = 0, 1, 0
    for number, line in enumerate(masked.split("\n"), start=1):
        end = position + len(line)
        match = _GO.match(line)
        if match:
            _append(result, text[begin:position], begin_line, int(match[1] or 1))
            begin, begin_line = end + 1, number + 1
        position = end + 1
    _append(result, text[begin:], begin_line, 1)
    return tuple(result)


def _append(result: list[Batch], text: str, line: int, times: int) -> None:
    if tokenize(text) and times:
        result.append(Batch(text, line, times))


def statements(text: str) -> tuple[Statement, ...]:
    """The statements of one batch in order. Blocks are flat: BEGIN, END and ELSE are statements of their own.

    Statements may follow each other without a semicolon, as T-SQL allows.
    """
    result: list[Statement] = []
    current: list[Token] = []
    cases = 0
    tokens = tokenize(text)

    def close() -> None:
        if current:
            result.append(Statement(_kind(current), tuple(current)))
            current.clear()

    for index, token in enumerate(tokens):
        word = token.upper
        if word == "CASE":
            cases += 1
        elif cases and word == "END":
            cases -= 1
        elif token.depth == 0 and not cases:
            if word == ";":
                if current and _kind(current) in ("create_procedure", "create_function"):
                    current.append(token)
                else:
                    close()
                continue
            following = tokens[index + 1].upper if index + 1 < len(tokens) else ""
            if current and word in _STARTERS and not _continues(current, word, following):
                close()
        current.append(token)
        if len(current) == 1 and word in _BLOCK_WORDS and not _is_transaction(tokens, index):
            if word == "END" and index + 1 < len(tokens) and tokens[index + 1].upper in ("TRY", "CATCH"):
                continue
            if word == "BEGIN" and index + 1 < len(tokens) and tokens[index + 1].upper in ("TRY", "CATCH"):
                continue
            close()
        elif len(current) > 1 and current[0].upper in ("BEGIN", "END") and word in ("TRY", "CATCH"):
            close()
    close()
    return tuple(result)


def label_statements(text: str, label: str) -> str:
    """The batch with OPTION (LABEL = 'label') on each statement that takes one; a label already there stays.

    Labelled are CTAS, INSERT..SELECT, SELECT, UPDATE, DELETE and COPY. No line is added: line numbers stay true.
    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-develop-label
    """
    literal = "'" + label[:LABEL_LIMIT].replace("'", "''") + "'"
    edits: list[tuple[int, str]] = []
    for statement in statements(text):
        if not _takes_label(statement):
            continue
        option = statement.find("OPTION", "(", depth=0)
        if option < 0:
            edits.append((statement.end, f" OPTION (LABEL = {literal})"))
        elif not any(token.upper == "LABEL" for token in statement.tokens[option:]):
            edits.append((statement.tokens[option + 1].end, f"LABEL = {literal}, "))
    for position, insertion in reversed(edits):
        text = text[:position] + insertion + text[position:]
    return text


def bind(text: str, parameters: Mapping[str, object]) -> tuple[str, tuple[object, ...]]:
    """The batch with each `@name` of `parameters` as the driver's `?` and the values in that order.

    A variable that the batch declares itself is left alone. Comments are blanked when something is bound: a driver
    would count their question marks. Raises UnboundParameter for an `@name` neither declared nor given.
    """
    given = {name.lstrip("@").lower(): value for name, value in parameters.items()}
    declared = declared_variables(text)
    pieces: list[str] = []
    values: list[object] = []
    position = 0
    for token in tokenize(text):
        if token.kind != "variable" or token.text.startswith("@@"):
            continue
        name = token.text[1:].lower()
        if name in declared:
            continue
        if name not in given:
            if _is_named_argument(text, token):
                continue
            raise UnboundParameter(token.text, token.line)
        pieces += [text[position : token.start], "?"]
        position = token.end
        values.append(given[name])
    if not values:
        return text, ()
    return _bound("".join(pieces) + text[position:], len(values)), tuple(values)


def _bound(text: str, count: int) -> str:
    clean = without_comments(text)
    marks = sum(1 for token in tokenize(clean) if token.text == "?")
    if marks != count:
        raise TsqlTextError("a question mark outside strings can't stand beside bound parameters", 1)
    return clean


def declared_variables(text: str) -> frozenset[str]:
    """Names (lower case, without @) that DECLARE introduces, or that are parameters of a procedure created here."""
    names: set[str] = set()
    for statement in statements(text):
        if statement.kind in ("create_procedure", "create_function"):
            names.update(token.text[1:].lower() for token in statement.tokens if token.kind == "variable")
        elif statement.kind == "declare":
            expect = True
            for token in statement.tokens[1:]:
                if expect and token.kind == "variable":
                    names.add(token.text[1:].lower())
                expect = token.text == "," and token.depth == 0
    return frozenset(names)


def used_variables(text: str) -> frozenset[str]:
    return frozenset(
        token.text[1:].lower()
        for token in tokenize(text)
        if token.kind == "variable" and not token.text.startswith("@@")
    )


def only_reads(batch: str) -> bool:
    """Whether a batch changes nothing, so that it may be run again: SELECTs, and variables of its own."""
    return all(
        statement.kind in ("declare", "set") or (statement.kind == "select" and not statement.has("INTO"))
        for statement in statements(batch)
    )


def uses_session(script: str) -> bool:
    """Whether a script may leave something in its session: temporary tables, settings, a transaction, a database."""
    for batch in batches(script):
        for statement in statements(batch.text):
            if statement.kind in ("use", "exec", "transaction") or any(
                t.text.startswith("#") for t in statement.tokens
            ):
                return True
            if statement.kind == "set" and statement.tokens[1:] and statement.tokens[1].kind != "variable":
                return True
    return False


def object_name(tokens: Sequence[Token], start: int) -> tuple[str, int]:
    """A possibly qualified name that begins at index `start`: (lower-case dotted name, index after it)."""
    parts: list[str] = []
    index = start
    while index < len(tokens) and tokens[index].kind in ("word", "name"):
        parts.append(tokens[index].identifier)
        index += 1
        if index < len(tokens) and tokens[index].text == ".":
            index += 1
            continue
        break
    return ".".join(parts), index


def option(statement: Statement, name: str) -> str:
    """The value of `name = value` in the WITH (...) of a statement that creates something: a string's content or a name
    without its quotes; empty if there is none.
    """
    index = statement.find(name.upper(), "=", depth=1)
    if index < 0 or index + 2 >= len(statement.tokens):
        return ""
    value = statement.tokens[index + 2]
    if value.kind == "string":
        return value.text[value.text.index("'") + 1 : -1].replace("''", "'")
    return value.identifier


# scanning


def _scan(text: str) -> Iterator[Token | tuple[int, int]]:
    """Tokens, and comments as (start, end)."""
    position, line, depth = 0, 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None  # the last alternative takes any character
        kind, piece = str(match.lastgroup), match[0]
        if kind == "block":
            end = _block_end(text, position, line)
            yield position, end
            line += text.count("\n", position, end)
            position = end
            continue
        if kind == "mark" and piece in "'\"[":
            raise TsqlTextError(
                f"{'a string' if piece == chr(39) else 'a quoted name'} begins here and never ends", line
            )
        if kind == "comment":
            yield position, match.end()
        elif kind != "space":
            if piece == ")":
                depth = max(0, depth - 1)
            yield Token(kind, piece, position, line, depth)  # type: ignore[arg-type]
            if piece == "(":
                depth += 1
        line += piece.count("\n")
        position = match.end()


def _block_end(text: str, start: int, line: int) -> int:
    """The offset after a block comment; they nest in T-SQL."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    raise TsqlTextError("a comment begins here and never ends", line)


def _comment_spans(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(piece for piece in _scan(text) if isinstance(piece, tuple))


def _mask(text: str) -> str:
    """The text with the insides of strings, quoted names and block comments blanked: a GO in there is no separator."""
    pieces = list(text)
    for piece in _scan(text):
        start, end, mask = (
            (*piece, True) if isinstance(piece, tuple) else (piece.start, piece.end, piece.kind in ("string", "name"))
        )
        if not mask or text.startswith("--", start):
            continue
        for index in range(start, end):
            if pieces[index] != "\n":
                pieces[index] = "_"
    return "".join(pieces)


# statements


def _is_transaction(tokens: Sequence[Token], index: int) -> bool:
    following = tokens[index + 1].upper if index + 1 < len(tokens) else ""
    return tokens[index].upper == "BEGIN" and following in ("TRAN", "TRANSACTION", "DISTRIBUTED")


def _continues(current: list[Token], word: str, following: str) -> bool:
    """Whether the starter `word` belongs to the statement read so far."""
    first, last = current[0].upper, current[-1].upper
    flat = {token.upper for token in current if token.depth == 0}
    kind = _kind(current)
    if kind in ("create_procedure", "create_function"):
        return True
    if first in ("GRANT", "DENY", "REVOKE"):
        return "TO" not in flat and "FROM" not in flat
    if first in ("IF", "WHILE"):
        return False
    if word in ("SELECT", "EXEC", "EXECUTE") and kind == "insert":
        return not flat & {"SELECT", "VALUES", "EXEC", "EXECUTE"} or last in _CONTINUE_SELECT
    if word == "SELECT":
        return last in _CONTINUE_SELECT or (
            first == "WITH" and last == ")" and not flat & {"SELECT", "INSERT", "UPDATE", "DELETE"}
        )
    if word in ("INSERT", "UPDATE", "DELETE", "MERGE") and first == "WITH":
        return last == ")" and not flat & {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"}
    if word in ("INSERT", "UPDATE", "DELETE"):
        return last == "THEN" or first == "EXPLAIN"
    if word == "SET":
        return (kind == "update" and "SET" not in flat) or last == "UPDATE"
    if first == "ALTER":
        return (word in ("ALTER", "DROP") and following not in _DROPPABLE) or (word == "MERGE" and following == "RANGE")
    if word == "IF":
        return first in ("DROP", "CREATE", "ALTER") and following in ("EXISTS", "NOT")
    if word == "COPY":
        return following != "INTO"
    return word in ("EXECUTE", "EXEC") and last == "WITH"


def _kind(tokens: Sequence[Token]) -> str:
    words = [token.upper for token in tokens]
    first = words[0]
    second = words[1] if len(words) > 1 else ""
    if first == "WITH":
        for token in tokens:
            if token.depth == 0 and token.upper in ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"):
                return token.upper.lower()
        return "with"
    if first == "CREATE":
        if "TABLE" in words[1:3] and second in ("TABLE", "EXTERNAL"):
            selected = any(w == "AS" and token.depth == 0 for w, token in zip(words, tokens, strict=True))
            if second == "EXTERNAL":
                return "cetas" if selected else "create_external_table"
            return "ctas" if selected else "create_table"
        if second in ("PROC", "PROCEDURE", "OR"):
            return "create_procedure" if "PROC" in words[1:4] or "PROCEDURE" in words[1:4] else "create_view"
        if second in ("VIEW", "FUNCTION", "STATISTICS", "SCHEMA"):
            return f"create_{second.lower()}"
        return "create_materialized_view" if second == "MATERIALIZED" else "create"
    if first in ("EXEC", "EXECUTE"):
        return "exec"
    if first in ("BEGIN", "COMMIT", "ROLLBACK", "SAVE"):
        return "begin" if first == "BEGIN" and second not in ("TRAN", "TRANSACTION", "DISTRIBUTED") else "transaction"
    if first == "UPDATE" and second == "STATISTICS":
        return "update_statistics"
    if first in ("ALTER", "DROP") and second:
        return f"{first.lower()}_{second.lower()}"
    return first.lower() or tokens[0].kind


def _takes_label(statement: Statement) -> bool:
    if statement.kind in ("ctas", "update", "delete", "copy"):
        return True
    flat = {token.upper for token in statement.tokens if token.depth == 0}
    if statement.kind == "insert":
        return "SELECT" in flat
    return statement.kind == "select" and "FROM" in flat


def _is_named_argument(text: str, token: Token) -> bool:
    """`EXEC p @name = 1`: the name belongs to the procedure, seen by the equals sign behind it."""
    for statement in statements(text):
        if statement.kind in ("exec", "insert") and statement.start <= token.start < statement.end:
            index = statement.tokens.index(token)
            return index + 1 < len(statement.tokens) and statement.tokens[index + 1].text == "="
    return False
