"""The model of an arrival's delay: what it learns from, and how it is put together."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

CATEGORIES = ["carrier", "origin", "dest", "manufacturer"]
NUMBERS = [
    *("sched_dep_hour", "sched_dep_minute", "sched_arr_hour", "weekday", "distance", "dest_lat", "dest_lon"),
    *(
        "plane_age",
        "seats",
        "engines",
        "temp",
        "dewp",
        "humid",
        "wind_dir",
        "wind_speed",
        "precip",
        "pressure",
        "visib",
    ),
    *("origin_departures_1h", "origin_departures_3h", "dest_arrivals_1h"),
    *("route_flights_28d", "route_delay_28d"),
]
#: Rounds of boosting after which a validation error that hasn't fallen ends them.
PATIENCE = 20


def columns(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns the model takes, numbers as floats: whole numbers with gaps change their type from day to day."""
    return rows[CATEGORIES + NUMBERS].astype(dict.fromkeys(NUMBERS, float))


def build(parameters: dict[str, Any]) -> Pipeline:
    """An untrained model. `parameters` are LightGBM's, `n_estimators` among them.

    The delay's tail is long (a storm costs hours): an absolute or a Huber loss learns from it without chasing it.
    """
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return Pipeline(
        [
            ("encode", ColumnTransformer([("categories", encode, CATEGORIES), ("numbers", "passthrough", NUMBERS)])),
            ("boost", lightgbm.LGBMRegressor(**parameters, alpha=30, n_jobs=1, random_state=1, verbose=-1)),
        ]
    )


def fit(
    model: Pipeline, rows: pd.DataFrame, label: str, validation: pd.DataFrame | None = None
) -> tuple[Pipeline, np.ndarray | None]:
    """Trains in place; answers the model and its predictions for the validation rows, by which boosting ends early."""
    encode, boost = model.named_steps["encode"], model.named_steps["boost"]
    learned = encode.fit_transform(columns(rows))
    categories = list(range(len(CATEGORIES)))
    if validation is None:
        boost.fit(learned, rows[label], categorical_feature=categories)
        return model, None
    checked = encode.transform(columns(validation))
    boost.fit(
        learned,
        rows[label],
        categorical_feature=categories,
        eval_X=checked,
        eval_y=validation[label],
        eval_metric="l1",
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    return model, np.asarray(boost.predict(checked))
