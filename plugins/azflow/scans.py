"""What a serverless pool's queries will read of the lake, before they run, and what they have read, from its messages.

https://learn.microsoft.com/azure/synapse-analytics/sql/data-processed
https://learn.microsoft.com/azure/synapse-analytics/sql/develop-openrowset
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from azflow import exports, tsql
from azflow.connection import AzureConnection

MEGABYTE = 1 << 20
#: A query that reads anything counts as this many megabytes at least.
LEAST = 10
#: More files than this below one path aren't listed: no estimate then.
MOST_FILES = 10_000
#: Footers that are read to learn how much of Parquet files the named columns are.
_SAMPLED = 8

_SAID = re.compile(
    r"Total size of data scanned is (\d+) megabytes, total size of data moved is (\d+) megabytes, "
    r"total size of data written is (\d+) megabytes"
)
_BUDGET = "budget limit for a period is exceeded"


@dataclass(frozen=True)
class Processed:
    """Megabytes, as the pool says them; several queries add up.

    :param charged: what counts against limits and on the bill: all three, at least `LEAST` a query.
    """

    scanned: int = 0
    moved: int = 0
    written: int = 0
    charged: int = 0

    def __add__(self, other: Processed) -> Processed:
        return Processed(
            self.scanned + other.scanned,
            self.moved + other.moved,
            self.written + other.written,
            self.charged + other.charged,
        )

    def view(self) -> dict[str, int]:
        """As an XCom has it."""
        return {
            "scanned_mb": self.scanned,
            "moved_mb": self.moved,
            "written_mb": self.written,
            "charged_mb": self.charged,
        }


def processed(messages: Iterable[str]) -> Processed:
    """What a serverless pool's messages say that it processed."""
    total = Processed()
    for match in itertools.chain.from_iterable(_SAID.finditer(message) for message in messages):
        scanned, moved, written = (int(number) for number in match.groups())
        total += Processed(scanned, moved, written, max(LEAST, scanned + moved + written))
    return total


def explained(message: str) -> str:
    """A pool's error about its own limit, with what to do; others as they are."""
    if _BUDGET not in message:
        return message
    return (
        f"{message} The limit is the pool's, for all its users, and lasts until its day, week or month ends (see "
        f"sys.configurations and sys.dm_external_data_processed). Who may changes it: EXEC sp_set_data_processed_limit "
        f"@type = N'daily', @limit_tb = <TB>."
    )


# -- what a batch reads (pure) ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """One OPENROWSET, or external table.

    :param line: of the batch, 1-based.
    :param paths: what BULK says, wildcards and all.
    :param source: its DATA_SOURCE, lower case; empty: the paths are addresses.
    :param format: ``PARQUET``, ``CSV``, ``DELTA``.
    :param pieces: what ``filepath(n)`` may be, by n, where the query says so.
    :param names: every name in the query, lower case; None: it wants all columns.
    """

    line: int
    paths: tuple[str, ...]
    source: str
    format: str
    pieces: Mapping[int, frozenset[str]] = field(default_factory=dict)
    names: frozenset[str] | None = None


def scans(batch: str, parameters: Mapping[str, object]) -> tuple[Scan, ...]:
    """The OPENROWSETs of a batch.

    :param parameters: values of ``@name``, for predicates on ``filepath``.
    """
    given = {f"@{name.lstrip('@').lower()}": value for name, value in parameters.items()}
    found = []
    for statement in tsql.statements(batch):
        places = [
            index
            for index, token in enumerate(statement.tokens[:-1])
            if token.upper == "OPENROWSET" and statement.tokens[index + 1].text == "("
        ]
        names = None if _wants_all(statement.tokens) else frozenset(token.identifier for token in statement.tokens)
        for place in places:
            scan = _scan(statement.tokens, place, names)
            alias = _alias(statement.tokens, place)
            # With OR, NOT or several row sets a predicate may not hold for every row that is read.
            if alias and len(places) == 1 and not {"OR", "NOT"} & set(statement.words()):
                scan = Scan(scan.line, scan.paths, scan.source, scan.format, _pieces(statement, alias, given), names)
            found.append(scan)
    return tuple(found)


#: Where a pool's external tables lie: name, LOCATION, data source, format.
EXTERNAL_TABLES = """SELECT LOWER(s.name + '.' + t.name) AS name, t.location, LOWER(d.name) AS source, f.format_type
FROM sys.external_tables AS t
JOIN sys.schemas AS s ON s.schema_id = t.schema_id
JOIN sys.external_data_sources AS d ON d.data_source_id = t.data_source_id
JOIN sys.external_file_formats AS f ON f.file_format_id = t.file_format_id"""


def table_scans(batch: str, tables: Sequence[Sequence[object]]) -> tuple[Scan, ...]:
    """The external tables that a batch reads.

    :param tables: the rows of `EXTERNAL_TABLES`.
    """
    known = {str(name): [str(each) for each in rest] for name, *rest in tables}
    found = []
    for statement in tsql.statements(batch):
        names = None if _wants_all(statement.tokens) else frozenset(token.identifier for token in statement.tokens)
        for index, token in enumerate(statement.tokens):
            if token.upper not in ("FROM", "JOIN", ","):
                continue
            name, _ = tsql.object_name(statement.tokens, index + 1)
            if name and (place := known.get(".".join(["dbo", *name.split(".")][-2:]))):
                location, source, format = place
                found.append(Scan(token.line, (location,), source, format.upper(), names=names))
    return tuple(found)


def _scan(tokens: Sequence[tsql.Token], place: int, names: frozenset[str] | None) -> Scan:
    depth = tokens[place + 1].depth + 1
    inside = list(itertools.takewhile(lambda token: token.depth >= depth, tokens[place + 2 :]))
    paths: list[str] = []
    options: dict[str, str] = {}
    for index, token in enumerate(inside):
        if token.upper == "BULK":
            for following in inside[index + 1 :]:
                if following.kind == "string":
                    paths.append(_text(following))
                elif following.text not in "(,)" or (following.text == "," and following.depth == depth):
                    break
        elif index + 2 < len(inside) and inside[index + 1].text == "=" and token.depth == depth:
            value = inside[index + 2]
            options[token.upper] = _text(value) if value.kind == "string" else value.identifier
    source, format = options.get("DATA_SOURCE", "").lower(), options.get("FORMAT", "").upper()
    return Scan(tokens[place].line, tuple(paths), source, format, names=names)


def _text(token: tsql.Token) -> str:
    return token.text[token.text.index("'") + 1 : -1].replace("''", "'")


def _alias(tokens: Sequence[tsql.Token], place: int) -> str:
    """The name behind OPENROWSET(...) [WITH (...)] [AS]; empty without one."""
    depth = tokens[place + 1].depth
    for token in tokens[place + 1 :]:
        if token.depth > depth or token.text in "()" or token.upper in ("WITH", "AS"):
            continue
        return token.identifier if token.depth == depth and token.kind in ("word", "name") else ""
    return ""


def _wants_all(tokens: Sequence[tsql.Token]) -> bool:
    before = ("SELECT", "DISTINCT", ",", ".")
    return any(token.text == "*" and index and tokens[index - 1].upper in before for index, token in enumerate(tokens))


def _pieces(statement: tsql.Statement, alias: str, given: Mapping[str, object]) -> dict[int, frozenset[str]]:
    """From ``alias.filepath(n) = value`` and ``alias.filepath(n) IN (value, ...)``."""
    tokens = statement.tokens
    found: dict[int, frozenset[str]] = {}
    for index in range(len(tokens) - 7):
        if [token.identifier for token in tokens[index : index + 4]] != [alias, ".", "filepath", "("]:
            continue
        if not (tokens[index + 4].text.isdigit() and tokens[index + 5].text == ")"):
            continue
        verb, rest = tokens[index + 6].upper, tokens[index + 7 :]
        if verb == "=":
            said = list(rest[:1])
        elif verb == "IN" and rest[0].text == "(":
            said = [token for token in itertools.takewhile(lambda t: t.text != ")", rest[1:]) if token.text != ","]
        else:
            continue
        values = [_text(token) if token.kind == "string" else given.get(token.text.lower()) for token in said]
        if values and None not in values:
            number = int(tokens[index + 4].text)
            these = frozenset(str(value) for value in values)
            found[number] = found.get(number, these) & these
    return found


# -- how much that is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a batch will read.

    :param charged: megabytes, at least `LEAST` a row set.
    :param files: how many files that are.
    :param unknown: what couldn't be looked at, and why, in words.
    """

    charged: int = 0
    files: int = 0
    unknown: tuple[str, ...] = ()


def estimate(connection: AzureConnection, found: Sequence[Scan], sources: Mapping[str, str]) -> Estimate:
    """How much a batch's row sets will read: the files' sizes, of Parquet the named columns' part.

    The pool skips row groups by their statistics, so it may read less; views aren't seen through.

    :param sources: locations of the pool's external data sources by name, lower case.
    """
    if not found:
        return Estimate()
    charged, files = 0, 0
    unknown: list[str] = []
    with connection.blob_service() as service:
        for scan in found:
            size = 0.0
            for path in scan.paths:
                address = path if not scan.source else f"{sources.get(scan.source, '').rstrip('/')}/{path.lstrip('/')}"
                if (place := _located(address, connection)) is None:
                    unknown.append(f"{path}: it isn't in {connection.id}'s storage account")
                    continue
                with service.get_container_client(place[0]) as container:
                    matched = _matching(container, place[1], scan)
                    if matched is None:
                        unknown.append(f"{path}: more than {MOST_FILES} files")
                        continue
                    files += len(matched)
                    size += sum(bytes_ for _, bytes_ in matched) * _share(container, matched, scan)
            charged += max(LEAST, -int(-size // MEGABYTE))
    return Estimate(charged, files, tuple(unknown))


def _located(address: str, connection: AzureConnection) -> tuple[str, str] | None:
    """(container, path) of an address in the connection's storage account, else None."""
    own = urlsplit(connection.storage_account_url)
    parts = urlsplit(address)
    if address.startswith(connection.storage_account_url.rstrip("/") + "/"):
        rest = address[len(connection.storage_account_url.rstrip("/")) + 1 :]
    else:
        # A path-style account URL has the account as its path's first segment.
        account = own.path.strip("/").split("/")[0] or (own.hostname or "").partition(".")[0]
        if (parts.hostname or "").partition(".")[0] != account:
            return None
        if parts.scheme in ("abfss", "abfs", "wasbs") and parts.username:
            return parts.username, unquote(parts.path.lstrip("/"))
        rest = parts.path.lstrip("/")
    container, _, path = unquote(rest).partition("/")
    return (container, path) if container else None


def _matching(container: Any, path: str, scan: Scan) -> list[tuple[str, int]] | None:
    """(name, bytes) of the files that a path means; None: too many to list."""
    delta = scan.format == "DELTA"
    pattern = re.compile(_pattern(path.rstrip("/") + "/**" if delta or "*" not in path else path))
    listed = container.list_blobs(name_starts_with=path.partition("*")[0].rstrip("/"))
    found: list[tuple[str, int]] = []
    for count, blob in enumerate(listed):
        if count == MOST_FILES:
            return None
        exact = blob.name == path
        match = pattern.fullmatch(blob.name)
        # The pool leaves out what begins with _ or a point: markers, logs, files that aren't ready.
        hidden = any(part.startswith(("_", ".")) for part in blob.name[len(path.partition("*")[0]) :].split("/"))
        if not blob.size or hidden or not (exact or match):
            continue
        groups = match.groups() if match and not delta else ()
        if all(n > len(groups) or groups[n - 1] in allowed for n, allowed in scan.pieces.items()):
            found.append((blob.name, int(blob.size)))
    return found


def _pattern(path: str) -> str:
    """A path's wildcards as a regular expression with a group each: * within a folder, /** below it."""
    pieces = re.split(r"(/\*\*|\*+)", path)
    return "".join(
        r"/(.*)" if piece == "/**" else "([^/]*)" if piece.startswith("*") else re.escape(piece) for piece in pieces
    )


def _share(container: Any, files: Sequence[tuple[str, int]], scan: Scan) -> float:
    """Which part of Parquet files the query's columns are, from some footers; 1 for all columns and other formats."""
    if scan.names is None or scan.format not in ("PARQUET", "DELTA") or not files:
        return 1.0
    wanted = total = 0
    step = max(1, len(files) // _SAMPLED)
    for name, size in files[::step][:_SAMPLED]:
        footer = exports.footer(container, name, size)
        for group in range(footer.num_row_groups):
            row_group = footer.row_group(group)
            for index in range(row_group.num_columns):
                column = row_group.column(index)
                total += column.total_compressed_size
                if column.path_in_schema.partition(".")[0].lower() in scan.names:
                    wanted += column.total_compressed_size
    return wanted / total if total else 1.0


# -- a budget --------------------------------------------------------------------------------------------------------


class Budget:
    """How many megabytes a task's queries may process. `before` and `after` answer with what is wrong, or nothing.

    :param most: megabytes, by what the pool charges; None: no limit.
    :ivar spent: what was processed up to now.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.spent = Processed()

    def before(self, expected: Estimate) -> str:
        """Whether a batch may run."""
        if self.most is None or self.spent.charged + expected.charged <= self.most:
            return ""
        already = f" {self.spent.charged} MB were processed already." if self.spent.charged else ""
        return (
            f"it isn't run: its {expected.files} files are about {expected.charged} MB, and the task may process "
            f"{self.most:g} MB (max_data_processed_mb).{already} Read fewer columns, or narrow filepath()."
        )

    def after(self, messages: Iterable[str]) -> str:
        """Add what a batch said it processed."""
        self.spent += processed(messages)
        if self.most is None or self.spent.charged <= self.most:
            return ""
        return (
            f"the pool processed {self.spent.charged} MB for this task ({self.spent.scanned} MB scanned, "
            f"{self.spent.moved} MB moved, {self.spent.written} MB written), and it may be {self.most:g} MB "
            f"(max_data_processed_mb)."
        )
