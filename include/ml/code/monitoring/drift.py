"""How far the values of a column have moved from those a model was trained on: Azure ML's five drift metrics.

| metric | columns | its value |
|---|---|---|
| `jensen_shannon_distance` | numerical, categorical | a distance, 0 to 1 |
| `population_stability_index` | numerical, categorical | a distance, 0 upwards |
| `normalized_wasserstein_distance` | numerical | a distance, in standard deviations of the baseline |
| `two_sample_kolmogorov_smirnov_test` | numerical | a p-value |
| `pearsons_chi_squared_test` | categorical | a p-value |

https://learn.microsoft.com/azure/machine-learning/concept-model-monitoring#supported-signals-and-metrics

Distances of small samples are never zero, however alike the samples are. So each comes with `noise`: what the same
metric reaches in 999 of 1,000 cases when both samples are drawn from the one pool they make. A distance drifts only
above both, threshold and noise. Missing values are data quality's business and are left out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats
from scipy.spatial import distance

Kind = Literal["numerical", "categorical"]
Values = np.ndarray

NUMERICAL_METRICS = (
    "jensen_shannon_distance",
    "population_stability_index",
    "normalized_wasserstein_distance",
    "two_sample_kolmogorov_smirnov_test",
)
CATEGORICAL_METRICS = ("jensen_shannon_distance", "population_stability_index", "pearsons_chi_squared_test")
#: Metrics that are p-values: the smaller, the more certain the drift.
TESTS = frozenset({"two_sample_kolmogorov_smirnov_test", "pearsons_chi_squared_test"})

BINS = 10
RESAMPLES = 2_000
NOISE_QUANTILE = 0.999
#: A transport distance is dearer to resample: fewer times, on fewer rows, and scaled to the rest.
_TRANSPORT_RESAMPLES = 400
_NOISE_ROWS = 1_000
_EXACT_ROWS = 500
#: A constant baseline has no standard deviation to measure in.
_LEAST_DEVIATION = 1e-3
_SEED = 20130308


@dataclass(frozen=True)
class Drift:
    """One metric of one column.

    `value` is None where it isn't defined: a sample without a single value. `noise` is None for tests, whose p-value
    says it already.
    """

    metric: str
    value: float | None
    noise: float | None
    baseline_rows: int
    target_rows: int

    def exceeds(self, threshold: float) -> bool:
        """Whether this is drift by `threshold`. An undefined metric is none."""
        if self.value is None:
            return False
        if self.metric in TESTS:
            return self.value < threshold
        return self.value > max(threshold, self.noise or 0.0)


def measure(baseline: Values, target: Values, kind: Kind, metric: str) -> Drift:
    """`metric` between two samples of one column.

    Numerical columns are arrays of numbers (infinite values are left out with the missing ones), categorical columns
    arrays of anything whose text tells the values apart. Raises ValueError for a metric the kind doesn't have.
    """
    known = NUMERICAL_METRICS if kind == "numerical" else CATEGORICAL_METRICS
    if metric not in known:
        raise ValueError(f"{metric!r} is no metric of a {kind} column; there are {', '.join(known)}")
    present = _numbers if kind == "numerical" else _texts
    first, second = present(baseline), present(target)
    if not len(first) or not len(second):
        return Drift(metric, None, None, len(first), len(second))
    if metric == "two_sample_kolmogorov_smirnov_test":
        # The exact p-value takes minutes for large samples, the asymptotic one is wrong for tiny ones.
        exact = max(len(first), len(second)) <= _EXACT_ROWS
        value, noise = float(stats.ks_2samp(first, second, method="exact" if exact else "asymp").pvalue), None
    elif metric == "normalized_wasserstein_distance":
        value, noise = _transport(first, second)
    else:
        counts = np.stack(categories(first, second) if kind == "categorical" else histograms(first, second))
        value, noise = _of_counts(counts, metric)
    return Drift(metric, value, noise, len(first), len(second))


# -- samples to counts ------------------------------------------------------------------------------------------------


def histograms(baseline: Values, target: Values, bins: int = BINS) -> tuple[Values, Values]:
    """How many values of each sample lie in each bin; the bins are the baseline's.

    A value that alone makes up a bin's share (the zeros of a rain column) is a bin of its own; the rest is cut at its
    quantiles. Quantiles of all values would collapse there. The outer bins are open, so that a value never seen
    before is counted, and a bin that neither sample has is dropped.
    """
    atoms, rest = _atoms(baseline, bins)
    edges = np.array([])
    if len(rest):
        edges = np.unique(np.quantile(rest, np.linspace(0, 1, bins - len(atoms) + 1)[1:-1]))
    elif len(atoms):
        # What is none of the known values lies between, below or above them.
        edges = atoms
    counted = []
    for sample in (baseline, target):
        is_atom = np.isin(sample, atoms)
        own = np.searchsorted(atoms, sample[is_atom])
        others = np.searchsorted(edges, sample[~is_atom], side="left")
        counted.append(
            np.concatenate([np.bincount(own, minlength=len(atoms)), np.bincount(others, minlength=len(edges) + 1)])
        )
    first, second = counted
    seen = (first + second) > 0
    return first[seen], second[seen]


def _atoms(baseline: Values, bins: int) -> tuple[Values, Values]:
    """Values as frequent as a whole bin, sorted; and all other values."""
    values, counts = np.unique(baseline, return_counts=True)
    atoms = values[counts * bins >= len(baseline)]
    return atoms, baseline[~np.isin(baseline, atoms)]


def categories(baseline: Values, target: Values) -> tuple[Values, Values]:
    """How often each sample has each value that either of them has; the values in the order of their text."""
    names, places = np.unique(np.concatenate([baseline, target]), return_inverse=True)
    first, second = places[: len(baseline)], places[len(baseline) :]
    return np.bincount(first, minlength=len(names)), np.bincount(second, minlength=len(names))


# -- counts to metrics ------------------------------------------------------------------------------------------------


def jensen_shannon_distance(first: Values, second: Values) -> Values:
    """The square root of the Jensen-Shannon divergence to base 2, along the last axis: 0 for the same shares, 1 for
    samples with nothing in common. https://docs.scipy.org/doc/scipy/reference/generated/scipy.spatial.distance.jensenshannon.html
    """
    found: Values = np.asarray(distance.jensenshannon(first, second, base=2, axis=-1))
    return np.nan_to_num(found)  # rounding below zero under the root


def population_stability_index(first: Values, second: Values) -> Values:
    """The sum of (target - baseline) ln(target / baseline) over bins, along the last axis.

    A bin that one sample doesn't have would be infinite: half a row is added to every bin of both samples (Jeffreys'
    prior), which a large sample doesn't notice, and the shares still sum to 1.
    """
    shares = []
    for counts in (first, second):
        smooth = np.asarray(counts, dtype=float) + 0.5
        shares.append(smooth / smooth.sum(axis=-1, keepdims=True))
    expected, actual = shares
    found: Values = ((actual - expected) * np.log(actual / expected)).sum(axis=-1)
    return found


_COUNT_METRICS: dict[str, Callable[[Values, Values], Values]] = {
    "jensen_shannon_distance": jensen_shannon_distance,
    "population_stability_index": population_stability_index,
}


def _of_counts(counts: Values, metric: str) -> tuple[float, float | None]:
    """`counts` has two rows, baseline and target, and a column a bin."""
    if metric == "pearsons_chi_squared_test":
        # Two samples, not one against a truth: a category the baseline lacks has a finite expectation then.
        alone = counts.shape[1] == 1
        return (1.0 if alone else float(stats.chi2_contingency(counts, correction=False).pvalue)), None
    function = _COUNT_METRICS[metric]
    random = np.random.default_rng(_SEED)
    pool, rows = counts.sum(axis=0), int(counts[0].sum())
    drawn = random.multivariate_hypergeometric(pool, rows, size=RESAMPLES, method="marginals")
    noise = function(drawn, pool - drawn)
    return float(function(counts[0], counts[1])), float(np.quantile(noise, NOISE_QUANTILE))


def _transport(first: Values, second: Values) -> tuple[float, float]:
    """Wasserstein's distance in standard deviations of the baseline, and its noise."""
    deviation = max(float(np.std(first, ddof=1)) if len(first) > 1 else 0.0, _LEAST_DEVIATION)
    value = float(stats.wasserstein_distance(first, second)) / deviation
    random = np.random.default_rng(_SEED)
    pool = np.concatenate([first, second])
    # The noise of an empirical distance falls with the root of the harmonic size, so that fewer rows tell it as well.
    scale = min(1.0, _NOISE_ROWS / len(pool))
    rows, others = max(1, round(len(first) * scale)), max(1, round(len(second) * scale))
    smaller = (1 / rows + 1 / others) / (1 / len(first) + 1 / len(second))
    drawn = []
    for _ in range(_TRANSPORT_RESAMPLES):
        sample = random.choice(pool, size=min(rows + others, len(pool)), replace=False)
        drawn.append(stats.wasserstein_distance(sample[:rows], sample[rows:]) if len(sample) > rows else 0.0)
    noise = float(np.quantile(drawn, NOISE_QUANTILE)) / math.sqrt(smaller) / deviation
    return value, noise


# -- values -----------------------------------------------------------------------------------------------------------


def _numbers(values: Values) -> Values:
    numbers = np.asarray(values, dtype=float)
    return numbers[np.isfinite(numbers)]


def _texts(values: Values) -> Values:
    array = np.asarray(values, dtype=object)
    return np.array([str(value) for value in array if not _is_missing(value)], dtype=str)


def _is_missing(value: object) -> bool:
    """None, NaN, and pandas' NA and NaT: what doesn't plainly equal itself."""
    try:
        return value is None or not bool(value == value)  # noqa: PLR0124
    except TypeError:  # NA has no truth
        return True
