"""A scan of lake files in the shape that DuckDB pushes projections and filters into: a dataset of pyarrow's.

A module of its own, imported when something is scanned: pyarrow's datasets and Parquet take 15 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset

if TYPE_CHECKING:
    from localazure.sql.scans import LakeScan


class ScanDataset(pyarrow.dataset.InMemoryDataset):  # type: ignore[misc]
    """Empty itself; what is asked of it, the scan reads."""

    scan: LakeScan

    @classmethod
    def of(cls, scan: LakeScan) -> ScanDataset:
        """The dataset of `scan`."""
        made = cls(scan.schema.empty_table())
        made.scan = scan
        return made

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **_options: Any) -> pa.dataset.Scanner:
        """As the base class; an error is kept with the scan, since DuckDB reports it in words of its own."""
        try:
            return self.scan.read(self.scan.schema.names if columns is None else columns, filter)
        except Exception as error:
            self.scan.error = error
            raise
