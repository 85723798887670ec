"""Which columns the best model goes by: how much worse it predicts when a column's values are shuffled.

The service explains with a surrogate and SHAP values; this is permutation importance
(https://scikit-learn.org/stable/modules/permutation_importance.html) of the raw columns, in units of the primary
metric, which holds for any model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

_ROWS = 1000
_REPEATS = 3


def importances(
    frame: pd.DataFrame, loss: Callable[[pd.DataFrame, np.ndarray], float], seconds: float
) -> dict[str, float]:
    """Column -> mean increase of the loss, the largest first; columns the time didn't suffice for are left out.

    `loss` judges a frame like `frame`'s rows with these numbers.
    """
    deadline = time.monotonic() + seconds
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(frame), min(_ROWS, len(frame)), replace=False))
    sample = frame.iloc[rows]
    base = loss(sample, rows)
    found: dict[str, float] = {}
    for name in frame.columns:
        worse = []
        for _ in range(_REPEATS):
            if time.monotonic() > deadline:
                break
            shuffled = sample.assign(**{name: sample[name].to_numpy()[rng.permutation(len(sample))]})
            worse.append(loss(shuffled, rows) - base)
        if worse:
            found[str(name)] = float(np.mean(worse))
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def report(found: dict[str, float], metric: str, algorithm: str) -> dict[str, Any]:
    """As an artifact."""
    return {
        "method": "permutation importance",
        "metric": metric,
        "unit": f"increase of the loss of {metric}",
        "algorithm": algorithm,
        "feature_importances": [{"feature": name, "importance": value} for name, value in found.items()],
    }
