"""What a statement reads of the lake: nothing before it runs, and then only the files and columns that it needs.

DuckDB plans over a dataset that has no rows yet. The plan's filters on filepath(), filename() and Delta partitions
choose the files, its projections the columns; what those take in the storage is what the statement is charged for.
https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/data-processed
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from localazure.sql.lake import LakeFile
from localazure.sql.results import SqlError

Fetch = Callable[[list[LakeFile]], list[Path]]


class Reader(Protocol):
    """One format. ``names`` are the scan's own names of columns; batches have them in this order."""

    def bytes_of(self, file: LakeFile, path: Path, names: Sequence[str]) -> int:
        """What reading these columns takes from the storage."""

    def batches(self, file: LakeFile, path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows; with no names, batches of the right length."""


@dataclass
class Usage:
    """What one statement took: bytes read, moved to the client or between steps, written; files that were opened."""

    scanned: int = 0
    moved: int = 0
    written: int = 0
    files: list[str] = field(default_factory=list)
    external: bool = False


@dataclass
class LakeScan:
    """One OPENROWSET or external table of a statement.

    label: prefix of its column names, unique in the statement, letters and digits; data: the reader's columns;
    constants: what is the same in all rows of a file (its name, address, wildcards, partitions), by file.
    """

    label: str
    files: list[LakeFile]
    reader: Reader
    fetch: Fetch
    data: dict[str, pa.DataType]
    constants: dict[str, tuple[pa.DataType, list[Any]]]
    overhead: int = 0
    error: Exception | None = None
    kept: list[int] | None = None
    usage: Usage | None = None

    @property
    def schema(self) -> pa.Schema:
        """Constants first: a query that needs no column at all is given the first one, which costs nothing."""
        return pa.schema([(name, kind) for name, (kind, _) in self.constants.items()] + list(self.data.items()))

    def opened(self, usage: Usage) -> Any:
        """The dataset to register; ``usage`` grows when it is read."""
        self.usage = usage
        usage.external = True
        self.kept = None
        self.error = None
        from localazure.sql.scan_dataset import ScanDataset  # some megabytes: for those who scan

        return ScanDataset.of(self)

    def listing(self) -> pa.Table:
        """The constants, a row a file."""
        columns = [pa.array(values, kind) for kind, values in self.constants.values()]
        numbers = pa.array(range(len(self.files)), pa.int64())
        return pa.table([*columns, numbers], names=[*self.constants, f"{self.label}_number"])

    def read(self, columns: Sequence[str], condition: Any) -> pa.dataset.Scanner:
        """The rows of the files that are left, with ``condition`` (pyarrow's) applied."""
        numbers = list(range(len(self.files))) if self.kept is None else self.kept
        numbers = self._matching(numbers, condition)
        files = [self.files[number] for number in numbers]
        named = [name for name in columns if name in self.data] if condition is None else list(columns)
        if condition is not None:  # a condition may need columns that the result doesn't
            text = str(condition)
            named += [name for name in self.schema.names if name not in named and re.search(rf"\b{name}\b", text)]
        data = [name for name in self.data if name in named]
        paths = self.fetch(files) if files else []
        usage = self.usage or Usage()
        usage.scanned += self.overhead
        for file, path in zip(files, paths, strict=True):
            usage.scanned += self.reader.bytes_of(file, path, data)
            usage.files.append(file.name)
        wanted = pa.schema([item for item in self.schema if item.name in {*data, *columns} | set(named)])
        batches = self._batches(list(zip(numbers, files, paths, strict=True)), data, wanted)
        return pa.dataset.Scanner.from_batches(
            pa.RecordBatchReader.from_batches(wanted, batches), columns=list(columns), filter=condition
        )

    def _matching(self, numbers: list[int], condition: Any) -> list[int]:
        """The files whose constants don't rule ``condition`` out."""
        if condition is None or not self.constants:
            return numbers
        form = pa.dataset.ParquetFileFormat()
        local = pa.fs.LocalFileSystem()
        fragments = []
        for number in numbers:
            known = None
            for name, (kind, values) in self.constants.items():
                value = values[number]
                here = pa.dataset.field(name)
                one = here.is_null() if value is None else here == pa.scalar(value, kind)
                known = one if known is None else known & one
            fragments.append(form.make_fragment(str(number), local, partition_expression=known))
        every = pa.dataset.FileSystemDataset(fragments, self.schema, form, local)
        return [int(fragment.path.rpartition("/")[2]) for fragment in every.get_fragments(filter=condition)]

    def _batches(
        self, opened: Iterable[tuple[int, LakeFile, Path]], names: list[str], wanted: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        try:
            for number, file, path in opened:
                for batch in self.reader.batches(file, path, names):
                    arrays = []
                    for item in wanted:
                        if item.name in self.constants:
                            kind, values = self.constants[item.name]
                            arrays.append(pa.repeat(pa.scalar(values[number], kind), batch.num_rows))
                        else:
                            arrays.append(batch.column(names.index(item.name)))
                    yield pa.RecordBatch.from_arrays(arrays, schema=wanted)
        except SqlError as error:
            self.error = error
            raise


def prune(cursor: duckdb.DuckDBPyConnection, sql: str, values: dict[str, Any], scans: Sequence[LakeScan]) -> None:
    """Leave out the files that the statement's own conditions rule out, as far as a plan shows them.

    Conditions stand right above a scan in the optimised plan, also those that came from outside a view or through a
    join; each that speaks of nothing but a file's constants is worked out over the list of files.
    """
    several = {scan.label: scan for scan in scans if len(scan.files) > 1 and scan.constants}
    if not several:
        return
    try:
        plan = json.loads(cursor.execute(f"EXPLAIN (FORMAT json) {sql}", values or None).fetchall()[0][1])
    except (duckdb.Error, ValueError, IndexError):
        return  # a statement that can't be explained runs all the same, and says itself what is wrong with it
    left: dict[str, set[int]] = {}
    for label, conditions in _scans(plan, []):
        scan = several.get(label)
        if scan is None:
            continue
        left.setdefault(label, set()).update(_remaining(cursor, scan, conditions))
    for label, numbers in left.items():
        several[label].kept = sorted(numbers)


def _scans(nodes: Any, conditions: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(label, conditions right above) of every scan in a plan."""
    for node in nodes if isinstance(nodes, list) else [nodes]:
        info = node.get("extra_info", {})
        name = node.get("name", "").strip()
        if name.endswith("ARROW_SCAN"):
            found = re.search(r"\b(l\d+)_", json.dumps(info))
            if found:
                yield found[1], conditions
            continue
        here: list[str] = []
        if name == "FILTER":
            written = info.get("Expression", info.get("Expressions", []))
            here = conditions + ([written] if isinstance(written, str) else [str(item) for item in written])
        yield from _scans(node.get("children", []), here)


def _remaining(cursor: duckdb.DuckDBPyConnection, scan: LakeScan, conditions: list[str]) -> set[int]:
    left = set(range(len(scan.files)))
    for condition in conditions:
        names = set(re.findall(r"\bl\d+_\w+", condition))
        if not names or not names <= set(scan.constants):
            continue
        listing = f"{scan.label}_listing"
        cursor.register(listing, scan.listing())
        try:
            rows = cursor.execute(f"SELECT {scan.label}_number FROM {listing} WHERE {condition}").fetchall()
            left &= {int(row[0]) for row in rows}
        except duckdb.Error:
            continue  # a plan's text isn't always SQL: then every file stays, and the statement's own filter decides
        finally:
            cursor.unregister(listing)
    return left


__all__ = ["LakeScan", "Reader", "Usage", "prune"]
