"""Compares a window of production data with the data a model was trained on; an Azure ML job.

Writes two files into the output folder: `readings.parquet`, one row a reading, as the pool's table takes them, and
`monitoring.json`, the same with each column's distribution on both sides, for a page.

Data is a folder of Parquet files, or of JSON lines as Azure ML's data collector writes them (`collected`). Signals with
`data: captured` are about the latter: what an endpoint was asked and answered in the trailing days.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import collected
import mlflow
import numpy as np
import pandas as pd
import signals as watched

_MOST_CATEGORIES = 12


def table_of(folder: Path) -> pd.DataFrame:
    """All rows of a folder. Raises SystemExit naming the folder if there are none that can be read."""
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [pd.read_parquet(path) for path in files if path.suffix == ".parquet"]
    parts += [collected.rows(path) for path in files if path.suffix == ".jsonl"]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise SystemExit(f"{folder}: no rows; there must be .parquet files, or .jsonl files of the data collector")
    return pd.concat(parts, ignore_index=True)


def window(table: pd.DataFrame, prediction: str, label: str, drop: list[str], day: str = "") -> watched.Window:
    """A table's columns by their part. Columns that aren't there are simply not known."""
    named = (("prediction", prediction), ("label", label), ("day", day))
    parts = {name: table.get(column) for name, column in named if column}
    features = table.drop(columns=[column for column in (prediction, label, *drop) if column in table])
    return watched.Window(features, **parts)


def captured_window(given: argparse.Namespace, drop: list[str]) -> watched.Window | str:
    """What the endpoint was asked and answered in the trailing days; text is why nothing is known of that."""
    if not given.captured:
        return given.captured_why or "captured requests aren't looked at"
    last = date.fromisoformat(given.captured_until)
    days = collected.Days(last - timedelta(days=given.captured_days - 1), last)
    asked = collected.rows(Path(given.captured), "model_inputs", days)
    if asked.empty:
        return f"nothing was captured from {days.first} to {days.last}"
    # Every deployment is asked the same; what was answered is about the one that serves.
    answers = Path(given.captured) / given.captured_deployment
    answered = collected.rows(answers, "model_outputs", days) if answers.is_dir() else pd.DataFrame()
    print(
        f"captured from {days.first} to {days.last}: {len(asked)} rows asked, {len(answered)} answered by the champion"
    )
    columns = [column for column in (given.prediction, given.label, *drop) if column in asked]
    prediction = pd.to_numeric(answered[given.prediction], errors="coerce") if given.prediction in answered else None
    return watched.Window(asked.drop(columns=columns), prediction)


def distribution(column: str, baseline: pd.Series, target: pd.Series) -> dict[str, Any] | None:
    """Shares of both sides in the same bins, for a plot; None if a side has no values."""
    first, second = baseline.dropna(), target.dropna()
    if not len(first) or not len(second):
        return None
    if watched.kind_of(baseline) == "numerical":
        a, b = (values[np.isfinite(values)] for values in watched.alike(first, second))
        low, high = np.quantile(np.concatenate([a, b]), [0.01, 0.99])
        edges = np.linspace(low, high if high > low else low + 1, 21)
        counts = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for values in (a, b)]
        names: list[Any] = [float(edge) for edge in edges]
    else:
        texts = [side.astype(str) for side in (first, second)]
        names = list(pd.concat(texts).value_counts().index[:_MOST_CATEGORIES])
        counts = [side.value_counts().reindex(names, fill_value=0).to_numpy() for side in texts]
    shares = [[float(share) for share in each / max(each.sum(), 1)] for each in counts]
    return {"column": column, "bins": names, "baseline": shares[0], "target": shares[1]}


def distributions(
    baseline: watched.Window, side: watched.Window, data: str, readings: list[watched.Reading]
) -> list[dict[str, Any]]:
    """The `distribution` of every column that drift was read of, and of the prediction, with whose rows they are."""
    read = {reading.feature for reading in readings if reading.signal == "data_drift" and reading.data == data}
    both = [name for name in sorted(read) if name in baseline.features and name in side.features]
    pairs = {name: (baseline.features[name], side.features[name]) for name in both}
    if baseline.prediction is not None and side.prediction is not None:
        pairs["prediction"] = (baseline.prediction, side.prediction)
    plots = (distribution(name, *pair) for name, pair in pairs.items())
    return [{**plot, "data": data} for plot in plots if plot]


def plain(reading: watched.Reading) -> dict[str, Any]:
    """A reading as JSON can hold it."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(reading).items()
    }


def with_predictions(table: pd.DataFrame, model: str, prediction: str) -> pd.DataFrame:
    """The table with the model's predictions, unless it has them or there is no model."""
    if prediction in table or not model:
        return table
    estimator = mlflow.sklearn.load_model(model)
    predict = getattr(estimator, "predict_proba", None)
    said = np.asarray(predict(table))[:, 1] if predict else np.asarray(estimator.predict(table))
    return table.assign(**{prediction: said})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("baseline", "holdout", "target", "signals", "readings"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--prediction", default="prediction")
    parser.add_argument("--label", default="")
    parser.add_argument("--drop", default="", help="columns that are no features, comma separated")
    parser.add_argument("--min-rows", type=int, default=500)
    parser.add_argument("--captured", default="", help="folder of an endpoint's collected events")
    parser.add_argument("--captured-why", default="", help="why there is none")
    parser.add_argument("--captured-deployment", default="", help="the champion's: whose answers count")
    parser.add_argument("--captured-until", default="")
    parser.add_argument("--captured-days", type=int, default=7)
    parser.add_argument("--outcomes", default="", help='{"day", "due_days", "max_missing"} as JSON')
    for name in ("model-name", "model-version", "window-start", "window-end", "run-id"):
        parser.add_argument(f"--{name}", default="")
    given = parser.parse_args()

    try:
        wanted = [watched.Signal.parse(entry) for entry in json.loads(given.signals)]
    except (ValueError, TypeError) as problem:
        raise SystemExit(f"watch.signals: {problem}") from None
    drop = [name for name in given.drop.split(",") if name]
    train = window(table_of(Path(given.baseline)), given.prediction, given.label, drop)
    # How good the model was and what it said is told by rows it didn't learn from.
    holdout = with_predictions(table_of(Path(given.holdout)), given.model, given.prediction)
    unseen = window(holdout, given.prediction, given.label, drop)
    baseline = watched.Window(train.features, unseen.prediction, unseen.label)
    due = json.loads(given.outcomes or "{}")
    day = due.pop("day", "")
    target = window(table_of(Path(given.target)), given.prediction, given.label, drop, day)
    captured = captured_window(given, drop)
    outcomes = watched.Outcomes(date.fromisoformat(given.window_end), **due) if day else None
    readings = watched.read(wanted, baseline, target, min_rows=given.min_rows, captured=captured, outcomes=outcomes)

    about = {
        "model_name": given.model_name,
        "model_version": given.model_version,
        "window_start": given.window_start,
        "window_end": given.window_end,
        "run_id": given.run_id,
    }
    folder = Path(given.readings)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{**about, **plain(reading)} for reading in readings]).astype(
        {"value": float, "reference": float, "threshold": float}
    ).to_parquet(folder / "readings.parquet", index=False)
    sides: dict[str, watched.Window] = {"scored": target}
    sides |= {"captured": captured} if isinstance(captured, watched.Window) else {}
    result = {
        **about,
        "level": watched.worst(readings),
        "rows": len(target.features),
        "baseline_rows": len(baseline.features),
        "captured_rows": len(captured.features) if isinstance(captured, watched.Window) else None,
        "readings": [plain(reading) for reading in readings],
        "distributions": [
            plot for data, side in sides.items() for plot in distributions(baseline, side, data, readings)
        ],
    }
    (folder / "monitoring.json").write_text(json.dumps(result, indent=1))
    for reading in readings:
        if reading.value is not None:
            source = "" if reading.data == "scored" else reading.data
            name = ".".join(filter(None, (source, reading.signal, reading.feature, reading.metric)))
            mlflow.log_metric(name, reading.value)
    levels = [reading.level for reading in readings]
    print({level: levels.count(level) for level in ("alarm", "warn", "ok", "undefined")}, "->", result["level"])
    for reading in readings:
        if reading.level in ("alarm", "warn"):
            print(f"{reading.level:<6} {reading.signal}: {reading.says}")


if __name__ == "__main__":
    main()
