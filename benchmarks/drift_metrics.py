"""Drift metrics over 100 seeds: what they find and what they must not, and how they compare with evidently's.

    var/env/compute/bin/python benchmarks/drift_metrics.py

Where evidently 0.7 is installed beside it, the metrics both define alike are compared on the same data: the
normalised Wasserstein distance, the two-sample Kolmogorov-Smirnov test, and the Jensen-Shannon distance of a
categorical column (evidently's logarithm is the natural one; Azure ML's and ours is to base 2). PSI differs by the
half row a bin (evidently fills empty bins instead), and evidently's chi-squared test takes the baseline for the truth
instead of for a sample. Exits with 1 if planted drift is missed, noise is taken for drift, or a comparison fails.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "include/ml/code/monitoring"))

import drift

SEEDS = range(100)
BASELINE, WINDOW = 20_000, 3_000
LIMITS = {
    "jensen_shannon_distance": 0.1,
    "population_stability_index": 0.1,
    "normalized_wasserstein_distance": 0.1,
    "two_sample_kolmogorov_smirnov_test": 1e-4,
    "pearsons_chi_squared_test": 1e-4,
}
Sample = Callable[[np.random.Generator, int], np.ndarray]


def normal(shift: float = 0.0) -> Sample:
    return lambda random, rows: random.normal(shift, 1, rows)


def rain(dry: float = 0.7, scale: float = 1.0) -> Sample:
    return lambda random, rows: np.where(random.random(rows) < dry, 0.0, random.exponential(scale, rows))


def carrier(*shares: float) -> Sample:
    return lambda random, rows: random.choice(np.array(list("abcd")), rows, p=shares)


#: column -> (kind, as it was, the same moved)
COLUMNS: dict[str, tuple[drift.Kind, Sample, Sample]] = {
    "normal, moved by 0.4 deviations": ("numerical", normal(), normal(0.4)),
    "zero-heavy, wetter": ("numerical", rain(), rain(0.45, 1.3)),
    "four categories, shares moved": ("categorical", carrier(0.4, 0.3, 0.2, 0.1), carrier(0.2, 0.25, 0.25, 0.3)),
}


def seeds() -> bool:
    """Print how often each metric calls each column drift; whether all were right."""
    good = True
    print(f"{'column':<34} {'metric':<36} {'window':>6}  drift found  noise taken for drift")
    for name, (kind, before, after) in COLUMNS.items():
        for rows in (60, WINDOW):
            found: Counter[str] = Counter()
            noise: Counter[str] = Counter()
            metrics = drift.NUMERICAL_METRICS if kind == "numerical" else drift.CATEGORICAL_METRICS
            for seed in SEEDS:
                random = np.random.default_rng(seed)
                baseline, same, moved = before(random, BASELINE), before(random, rows), after(random, rows)
                for metric in metrics:
                    limit = LIMITS[metric]
                    noise[metric] += drift.measure(baseline, same, kind, metric).exceeds(limit)
                    found[metric] += drift.measure(baseline, moved, kind, metric).exceeds(limit)
            for metric in metrics:
                print(f"{name:<34} {metric:<36} {rows:>6}  {found[metric]:>7}/100  {noise[metric]:>7}/100")
                # Sixty rows are allowed to say too little, never to cry wolf.
                good &= noise[metric] == 0 and (rows < WINDOW or found[metric] == len(SEEDS))
    return good


def beside_evidently() -> bool:
    """Print the metrics both define alike; whether they agree to six digits."""
    try:
        from evidently.legacy.calculations.stattests import jensenshannon_stat_test, ks_stat_test
        from evidently.legacy.calculations.stattests import wasserstein_stat_test as wasserstein
    except ImportError:
        print("evidently isn't installed here (0.7.23 was compared): left out")
        return True
    random = np.random.default_rng(7)
    numbers = [rain()(random, BASELINE), rain(0.6)(random, WINDOW)]
    words = [carrier(0.4, 0.3, 0.2, 0.1)(random, BASELINE), carrier(0.3, 0.3, 0.2, 0.2)(random, WINDOW)]
    good = True
    for test, metric, kind, pair, unit in (
        # Its deviation is the population's, divided by n.
        (wasserstein, "normalized_wasserstein_distance", "numerical", numbers, np.sqrt(BASELINE / (BASELINE - 1))),
        (ks_stat_test, "two_sample_kolmogorov_smirnov_test", "numerical", numbers, 1.0),
        (jensenshannon_stat_test, "jensen_shannon_distance", "categorical", words, np.sqrt(np.log(2))),
    ):
        kinds = {"numerical": "num", "categorical": "cat"}
        theirs = test(pd.Series(pair[0]), pd.Series(pair[1]), kinds[kind], 0.1).drift_score / unit
        ours = drift.measure(*pair, kind, metric).value  # type: ignore[arg-type]
        same = bool(np.isclose(ours, theirs, rtol=1e-6))
        print(f"{metric:<36} {ours:.6g}  evidently {theirs:.6g}  {'equal' if same else 'DIFFERENT'}")
        good &= same
    return good


def speed() -> None:
    """Print what a month of a wide table costs."""
    random = np.random.default_rng(0)
    columns = [(normal()(random, 336_000), normal()(random, 28_000)) for _ in range(4)]
    for metric in drift.NUMERICAL_METRICS:
        started = time.perf_counter()
        for pair in columns:
            drift.measure(*pair, "numerical", metric)
        print(
            f"{metric:<36} {(time.perf_counter() - started) / len(columns):.3f} s a column of 336,000 and 28,000 rows"
        )


if __name__ == "__main__":
    outcomes = [seeds(), beside_evidently()]
    speed()
    sys.exit(0 if all(outcomes) else 1)
