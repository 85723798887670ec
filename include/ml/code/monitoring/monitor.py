"""Compares a window of production data with the data a model was trained on; an Azure ML job.

Writes two files into the output folder: `readings.parquet`, one row a reading, as the pool's table takes them, and
`monitoring.json`, the same with each column's distribution on both sides, for a page.

Data is a folder of Parquet files, or of JSON lines as Azure ML's data collector writes them
(https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data#collected-data): one event a line,
whose `data` holds the rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import signals as watched

_MOST_CATEGORIES = 12


def table_of(folder: Path) -> pd.DataFrame:
    """All rows of a folder. Raises SystemExit naming the folder if there are none that can be read."""
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [pd.read_parquet(path) for path in files if path.suffix == ".parquet"]
    parts += [collected(path) for path in files if path.suffix == ".jsonl"]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise SystemExit(f"{folder}: no rows; there must be .parquet files, or .jsonl files of the data collector")
    return pd.concat(parts, ignore_index=True)


def collected(path: Path) -> pd.DataFrame:
    """The rows of the data collector's events in one file. A line that was cut off in mid-write is left out."""
    rows: list[dict[str, Any]] = []
    broken = 0
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                data = json.loads(line)["data"]
            except (ValueError, KeyError, TypeError):
                broken += bool(line.strip())
                continue
            rows += data if isinstance(data, list) else [data]
    if broken:
        print(f"{path.name}: {broken} line(s) are no collected event and were left out")
    return pd.DataFrame(rows)


def window(table: pd.DataFrame, prediction: str, label: str, drop: list[str]) -> watched.Window:
    """A table's columns by their part. Columns that aren't there are simply not known."""
    parts = {name: table.get(column) for name, column in (("prediction", prediction), ("label", label)) if column}
    features = table.drop(columns=[column for column in (prediction, label, *drop) if column in table])
    return watched.Window(features, **parts)


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
    target = window(table_of(Path(given.target)), given.prediction, given.label, drop)
    readings = watched.read(wanted, baseline, target, min_rows=given.min_rows)

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
    columns = sorted({reading.feature for reading in readings if reading.signal == "data_drift"} & set(target.features))
    pairs = {name: (baseline.features[name], target.features[name]) for name in columns if name in baseline.features}
    if baseline.prediction is not None and target.prediction is not None:
        pairs["prediction"] = (baseline.prediction, target.prediction)
    result = {
        **about,
        "level": watched.worst(readings),
        "rows": len(target.features),
        "baseline_rows": len(baseline.features),
        "readings": [plain(reading) for reading in readings],
        "distributions": [found for name, pair in pairs.items() if (found := distribution(name, *pair))],
    }
    (folder / "monitoring.json").write_text(json.dumps(result, indent=1))
    for reading in readings:
        if reading.value is not None:
            mlflow.log_metric(".".join(filter(None, (reading.signal, reading.feature, reading.metric))), reading.value)
    levels = [reading.level for reading in readings]
    print({level: levels.count(level) for level in ("alarm", "warn", "ok", "undefined")}, "->", result["level"])
    for reading in readings:
        if reading.level in ("alarm", "warn"):
            print(f"{reading.level:<6} {reading.signal}: {reading.says}")


if __name__ == "__main__":
    main()
