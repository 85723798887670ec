"""Resampling: the same resampled rows for every model, so that a difference has an interval of its own.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16. Rows that go up and down together (the hours
of one day) are drawn together, as a block: drawn one by one they would promise more than they know.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CONFIDENCE = 0.95
SEED = 20130308
_AT_ONCE = 50


def weights(rows: int, resamples: int, blocks: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """How often each resample has each row: arrays of resamples x rows, together `resamples` rows or a few more.

    :param blocks: the number of the block that each row belongs to, from 0 on; None: each row is its own.
    """
    random = np.random.default_rng(SEED)
    count = rows if blocks is None else int(blocks.max()) + 1
    for _ in range(0, resamples, _AT_ONCE):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=_AT_ONCE).astype(np.float32)
        yield drawn if blocks is None else drawn[:, blocks]


def interval(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    if not len(values):
        return {"low": None, "high": None}
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"low": float(low), "high": float(high)}


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def equal_bins(predicted: np.ndarray, observed: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Calibration: equal-sized bins of what was predicted, with the means of prediction and outcome."""
    split = np.array_split(np.argsort(predicted, kind="stable"), bins)
    return [
        {"predicted": float(predicted[rows].mean()), "observed": float(observed[rows].mean()), "rows": len(rows)}
        for rows in split
        if len(rows)
    ]
