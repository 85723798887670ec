"""The five drift metrics, by the formulas of Azure ML's components data_drift_compute_metrics.

Bins are of equal width over both samples, as many as Sturges' rule gives for the smaller one. Nothing here knows of
noise: a small sample is far from any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial import distance

_LEAST_DEVIATION = 0.001
_MOST_TEST_ROWS = 10_000  # of the component's test


class TooManyRows(Exception):
    """What the service says of a test over large tables."""


def measure(metric: str, reference: pd.Series, production: pd.Series, *, categorical: bool) -> float | None:
    """The metric over the values that are there; None if a side has none."""
    first, second = reference.dropna(), production.dropna()
    if not len(first) or not len(second):
        return None
    if categorical:
        names = pd.Index(first.astype(str)).union(pd.Index(second.astype(str)).unique()).unique()
        counts = [side.astype(str).value_counts().reindex(names, fill_value=0).to_numpy() for side in (first, second)]
        return float(_CATEGORICAL[metric](counts[0], counts[1]))
    numbers = [side.to_numpy(dtype=float) for side in (first, second)]
    if metric in _OF_VALUES:
        return float(_OF_VALUES[metric](*numbers))
    edges = bin_edges(*numbers)
    return float(_OF_COUNTS[metric](*(np.histogram(side, edges)[0] for side in numbers)))


def bin_edges(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of bins over both samples."""
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    if low == high:
        return np.array([low, low + max(abs(low) * 0.01, 0.01)])
    return np.linspace(low, high, math.ceil(math.log2(min(len(first), len(second))) + 1) + 1)


def _wasserstein(reference: np.ndarray, production: np.ndarray) -> float:
    deviation = float(np.std(reference, ddof=1)) if len(reference) > 1 else 0.0
    return float(stats.wasserstein_distance(reference, production)) / max(deviation, _LEAST_DEVIATION)


def _kolmogorov_smirnov(reference: np.ndarray, production: np.ndarray) -> float:
    if max(len(reference), len(production)) >= _MOST_TEST_ROWS:
        raise TooManyRows(
            f"Cannot calculate two-sample Kolmogorov-Smirnov test on dataset with more than {_MOST_TEST_ROWS} entries"
        )
    return float(stats.ks_2samp(reference, production).pvalue)


def _jensen_shannon(reference: np.ndarray, production: np.ndarray) -> float:
    return float(np.nan_to_num(distance.jensenshannon(reference, production, base=2)))


def _stability(reference: np.ndarray, production: np.ndarray) -> float:
    # A row is added to every bin, so that none is empty.
    expected, actual = ((side + 1) / side.sum() for side in (reference, production))
    return float(((actual - expected) * np.log(actual / expected)).sum())


def _chi_squared(reference: np.ndarray, production: np.ndarray) -> float:
    expected = reference / reference.sum() * production.sum()
    unseen = (expected == 0) & (production > 0)
    if unseen.any():
        return 0.0  # what the reference never had can't be chance
    kept = expected > 0
    return 1.0 if kept.sum() == 1 else float(stats.chisquare(production[kept], expected[kept]).pvalue)


_OF_VALUES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "NormalizedWassersteinDistance": _wasserstein,
    "TwoSampleKolmogorovSmirnovTest": _kolmogorov_smirnov,
}
_OF_COUNTS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "JensenShannonDistance": _jensen_shannon,
    "PopulationStabilityIndex": _stability,
}
_CATEGORICAL = {**_OF_COUNTS, "PearsonsChiSquaredTest": _chi_squared}
