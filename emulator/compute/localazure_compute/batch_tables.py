"""Mini-batches of a table: an MLTable cut into pieces of about so many bytes, or into one piece a key.

https://learn.microsoft.com/azure/machine-learning/how-to-use-parallel-job-in-pipeline
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def cut(table: Path, target: Path, size: int, keys: Sequence[str]) -> list[tuple[str, int]]:
    """The pieces of the MLTable in the folder `table`, in files below `target`: (file, rows) of each.

    With `keys`, rows that agree in these columns are one piece; otherwise a piece is `size` bytes of CSV, one row at
    least. ValueError for a table without rows and for keys that aren't columns.
    """
    from localazure_compute.mltable import api

    frame = api.load(str(table)).to_pandas_dataframe()
    if frame.empty:
        raise ValueError(f"The table {table} has no rows.")
    if missing := [key for key in keys if key not in frame.columns]:
        raise ValueError(f"The table has no column {', '.join(missing)} to partition by (it has "
                         f"{', '.join(map(str, frame.columns))}).")  # fmt: skip
    if keys:
        pieces = [piece for _, piece in frame.groupby(list(keys), sort=True, dropna=False)]
    else:
        sample = frame.head(1000)
        row = max(len(sample.to_csv(index=False, header=False).encode()) / len(sample), 1)
        rows = max(int(size / row), 1)
        pieces = [frame.iloc[first : first + rows] for first in range(0, len(frame), rows)]
    target.mkdir(parents=True, exist_ok=True)
    found = []
    for number, piece in enumerate(pieces):
        file = target / f"{number:09d}.pickle"
        file.write_bytes(pickle.dumps(piece.reset_index(drop=True)))
        found.append((str(file), len(piece)))
    return found


def read(file: str) -> Any:
    """A piece as the DataFrame it was cut as."""
    return pickle.loads(Path(file).read_bytes())
