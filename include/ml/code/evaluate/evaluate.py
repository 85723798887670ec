"""Scores challenger and champion on the same hold-out and writes the evidence a gate decides on.

Reads Parquet files with the feature columns and the label; writes `evidence.json`: each model's metric with a bootstrap
interval, the paired difference, baselines, slices, calibration. A model that can't be judged has the value null and a
`problem` in words; the gate turns the challenger down with them. Rows whose outcome isn't known yet are left out and
counted (`unlabelled`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import classification
import forecasting
import mlflow
import numpy as np
import pandas as pd
import regression
from scoring import Unscored, answers, labelled, unmeasured

METRICS = {
    "classification": classification.METRICS,
    "regression": regression.METRICS,
    "forecasting": regression.METRICS,
}


def read(folder: str, what: str) -> pd.DataFrame:
    try:
        rows = pd.read_parquet(folder)
    except FileNotFoundError:
        rows = pd.DataFrame()
    if rows.empty:
        raise SystemExit(f"the {what} at {folder} has no rows: was the partition exported?")
    return rows


def tabular(arguments: argparse.Namespace, holdout: pd.DataFrame) -> dict[str, Any]:
    """Classification and regression: a prediction a row."""
    classes = arguments.task == "classification"
    task: Any = classification if classes else regression
    features = holdout.drop(columns=[arguments.label])
    started = time.monotonic()
    challenger = answers(task.predict, arguments.challenger, features, probability=classes)
    seconds = time.monotonic() - started
    champion, problem = of_champion(
        arguments, lambda folder: answers(task.predict, folder, features, probability=classes)
    )
    more: dict[str, Any] = {"slices": arguments.slices, "resamples": arguments.resamples}
    if arguments.task == "regression":
        without = regression.baselines(read(arguments.history, "training set"), arguments.label, len(holdout))
        more |= {"metric": arguments.metric, "unit": arguments.unit, "without_model": without}
    result = task.evidence(holdout, arguments.label, challenger, champion, **more)
    return {**result, **problem, "microseconds_per_row": 1e6 * seconds / len(holdout)}


def of_champion(arguments: argparse.Namespace, score: Callable[[str], Any]) -> tuple[Any, dict[str, Any]]:
    """The champion's answers, or None and what the evidence says of it: it can't be scored (any more)."""
    if arguments.champion is None:
        return None, {}
    try:
        return score(arguments.champion), {}
    except Unscored as problem:
        print(f"the champion, version {arguments.champion_version}, can't be scored: {problem}")
        return None, {"champion": {"value": None, "low": None, "high": None, "problem": str(problem)}}


def forecasts(arguments: argparse.Namespace, holdout: pd.DataFrame) -> dict[str, Any]:
    """Forecasting: the hold-out day by day."""
    series = forecasting.Series(arguments.time, tuple(arguments.series), arguments.label)
    history = read(arguments.history, "training set")
    rows = series.sorted(holdout)
    started = time.monotonic()
    challenger = forecasting.rolling(arguments.challenger, history, holdout, series)
    seconds = time.monotonic() - started
    champion, problem = of_champion(arguments, lambda folder: forecasting.rolling(folder, history, holdout, series))
    days = series.day(rows)
    result: dict[str, Any] = regression.evidence(
        rows.assign(part_of_day=forecasting.part_of_day(rows[series.time])),
        arguments.label,
        challenger["forecast"].to_numpy(),
        None if champion is None else champion["forecast"].to_numpy(),
        metric=arguments.metric,
        unit=arguments.unit,
        without_model=forecasting.baselines(history, holdout, series),
        slices=arguments.slices,
        resamples=arguments.resamples,
        # The hours of a day share its weather.
        blocks=days.rank(method="dense").to_numpy(int) - 1,
    )
    observed = rows[arguments.label].to_numpy(float)
    for name, found in (("challenger", challenger), ("champion", champion)):
        if found is not None:
            within = (found["low"] <= observed) & (observed <= found["high"])
            expected = forecasting.HIGH - forecasting.LOW
            result[name]["coverage"] = {"expected": round(expected, 3), "observed": float(within.mean())}
    return {**result, **problem, "horizons": int(days.nunique()), "microseconds_per_row": 1e6 * seconds / len(holdout)}


def parse() -> argparse.Namespace:
    def given(text: str) -> str:
        return "" if text == "none" else text  # a job's input can't be empty

    def listed(text: str) -> list[str]:
        return [name for name in given(text).split(",") if name]

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("challenger", "champion", "champion-version", "history", "holdout", "label", "evidence"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--task", choices=METRICS, required=True)
    parser.add_argument("--metric", required=True)
    parser.add_argument("--unit", type=given, default="", help="of the label, for people")
    parser.add_argument("--time", type=given, default="", help="forecasting: the column with the time")
    parser.add_argument("--series", type=listed, default=[], help="forecasting: the columns that name a series")
    parser.add_argument("--slices", type=listed, default=[])
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.metric not in METRICS[arguments.task]:
        known = ", ".join(METRICS[arguments.task])
        parser.error(f"--metric {arguments.metric}: of a {arguments.task} task this job reckons {known}")
    if arguments.task == "forecasting" and not (arguments.time and arguments.series):
        parser.error("a forecasting task needs --time and --series")
    if arguments.champion_version == "none":
        arguments.champion = None
    return arguments


def main() -> None:
    arguments = parse()
    everything = read(arguments.holdout, "hold-out")
    holdout = labelled(everything, arguments.label, classes=arguments.task == "classification")
    try:
        if holdout.empty:
            raise Unscored(f"none of the hold-out's {len(everything)} rows has its {arguments.label} yet")
        result = (forecasts if arguments.task == "forecasting" else tabular)(arguments, holdout)
    except Unscored as problem:
        print(f"no figures: {problem}")
        result = unmeasured(arguments.metric, len(holdout), str(problem))
    result["unlabelled"] = len(everything) - len(holdout)
    result["champion_version"] = None if arguments.champion is None else arguments.champion_version

    folder = Path(arguments.evidence)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps(result, indent=1))
    metrics = {"rows": float(len(holdout))}
    for name in ("challenger", "champion", "difference"):
        if isinstance(found := result[name], dict):
            metrics |= {f"{name}_{key}": found[key] for key in ("value", "low", "high") if found[key] is not None}
    for baseline in result.get("baselines", []):
        name = "".join(letter if letter.isalnum() else "_" for letter in baseline["name"])
        metrics[f"baseline_{name}"] = baseline["value"]
    mlflow.log_metrics({key: value for key, value in metrics.items() if np.isfinite(value)})
    print(json.dumps({key: result.get(key) for key in ("rows", "metric", "difference")}), json.dumps(metrics))


if __name__ == "__main__":
    main()
