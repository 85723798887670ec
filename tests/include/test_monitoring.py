"""Drift metrics and signals of include/ml/code/monitoring, on samples with and without drift."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rendering import INCLUDE
from scipy import stats
from scipy.spatial import distance

ROOT = INCLUDE.parent
SEEDS = range(20)  # benchmarks/drift_metrics.py takes 100
# What a team would set: each metric finds a quarter of a standard deviation, none may find noise.
LIMITS = {
    "jensen_shannon_distance": 0.1,
    "population_stability_index": 0.1,
    "normalized_wasserstein_distance": 0.1,
    "two_sample_kolmogorov_smirnov_test": 1e-4,
    "pearsons_chi_squared_test": 1e-4,
}


@pytest.fixture(scope="module")
def monitoring() -> Iterator[Any]:
    """The modules `drift` and `signals`, imported as the job imports them."""
    sys.path.insert(0, str(INCLUDE / "ml/code/monitoring"))
    try:
        import signals  # type: ignore[import-not-found]

        yield signals
    finally:
        sys.path.pop(0)
        sys.modules.pop("signals", None)
        sys.modules.pop("drift", None)


@pytest.fixture(scope="module")
def drift(monitoring: Any) -> Any:
    return monitoring.drift


def rain(random: np.random.Generator, rows: int, dry: float = 0.7, scale: float = 1.0) -> np.ndarray:
    """A zero-heavy column."""
    return np.where(random.random(rows) < dry, 0.0, random.exponential(scale, rows))


def test_metrics_are_scipys_where_scipy_has_them(drift: Any) -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(0, 2, 4_000), random.normal(0.3, 2, 700)

    def value(metric: str, kind: str = "numerical") -> float:
        return float(drift.measure(first, second, kind, metric).value)

    assert value("two_sample_kolmogorov_smirnov_test") == pytest.approx(
        stats.ks_2samp(first, second, method="asymp").pvalue
    )
    assert value("normalized_wasserstein_distance") == pytest.approx(
        stats.wasserstein_distance(first, second) / np.std(first, ddof=1)
    )
    letters = np.array(list("abcd"))
    first, second = letters[random.integers(0, 4, 900)], letters[random.integers(0, 3, 400)]
    table = pd.crosstab(np.r_[first, second], np.r_[np.zeros(900), np.ones(400)])
    shares = [table[side] / table[side].sum() for side in (0.0, 1.0)]
    assert value("jensen_shannon_distance", "categorical") == pytest.approx(distance.jensenshannon(*shares, base=2))
    assert value("pearsons_chi_squared_test", "categorical") == pytest.approx(
        stats.chi2_contingency(table, correction=False).pvalue
    )
    # Half a row a bin is all that differs from the definition: nothing, for many rows.
    counts = [table[side].to_numpy()[:3] * 1e6 for side in (0.0, 1.0)]
    a, b = (each / each.sum() for each in counts)
    assert drift.population_stability_index(*counts) == pytest.approx(((b - a) * np.log(b / a)).sum(), rel=1e-4)


@pytest.mark.parametrize("rows", [60, 2_000])
def test_noise_is_never_drift(drift: Any, rows: int) -> None:
    alarms = []
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        sides = rain(random, 3_000), rain(random, rows)
        words = [random.choice(list("abcdefgh"), size) for size in (3_000, rows)]
        alarms += [
            (seed, metric)
            for kind, pair, metrics in (
                ("numerical", sides, drift.NUMERICAL_METRICS),
                ("categorical", words, drift.CATEGORICAL_METRICS),
            )
            for metric in metrics
            if drift.measure(*pair, kind, metric).exceeds(LIMITS[metric])
        ]
    assert alarms == []


def test_planted_drift_is_always_found(drift: Any) -> None:
    missed = []
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        sides = rain(random, 3_000), rain(random, 2_000, dry=0.45, scale=1.3)
        words = [random.choice(list("abcd"), size, p=shares) for size, shares in (
            (3_000, [0.4, 0.3, 0.2, 0.1]), (2_000, [0.2, 0.25, 0.25, 0.3]))]  # fmt: skip
        missed += [
            (seed, metric)
            for kind, pair, metrics in (
                ("numerical", sides, drift.NUMERICAL_METRICS),
                ("categorical", words, drift.CATEGORICAL_METRICS),
            )
            for metric in metrics
            if not drift.measure(*pair, kind, metric).exceeds(LIMITS[metric])
        ]
    assert missed == []


@pytest.mark.parametrize(
    ("baseline", "target"),
    [
        ([0.0] * 50, [0.0] * 50),  # constant, and the same
        ([1.0], [1.0]),
        ([0.0] * 50, [7.0] * 50),  # constant, and another value
        ([1.0, 2.0, np.inf], [1.0, np.nan]),
    ],
)
def test_metrics_stay_finite_on_odd_columns(drift: Any, baseline: list[float], target: list[float]) -> None:
    for metric in drift.NUMERICAL_METRICS:
        found = drift.measure(np.array(baseline), np.array(target), "numerical", metric)
        assert np.isfinite(found.value)
        assert found.noise is None or np.isfinite(found.noise)


def test_a_value_never_seen_before_is_counted(drift: Any) -> None:
    first, second = drift.histograms(np.repeat([0.0, 1.0], 50), np.array([0.0, 0.5, 2.0, -1.0]))
    assert (first.sum(), second.sum()) == (100, 4)
    assert len(first) == 5  # both known values, one between, one below, one above
    first, second = drift.categories(np.array(["a", "b"]), np.array(["a", "z", "z"]))
    assert (first.tolist(), second.tolist()) == ([1, 1, 0], [1, 0, 2])


def test_a_side_without_values_is_undefined_not_zero(drift: Any) -> None:
    found = drift.measure(np.array([1.0, 2.0]), np.array([np.nan]), "numerical", "jensen_shannon_distance")
    assert (found.value, found.exceeds(0.0)) == (None, False)
    with pytest.raises(ValueError, match="no metric of a categorical column"):
        drift.measure(np.array(["a"]), np.array(["b"]), "categorical", "normalized_wasserstein_distance")


def frames(random: np.random.Generator, rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "carrier": random.choice(["AA", "UA"], rows),
            "distance": random.normal(1000, 100, rows),
            "seats": random.choice([50, 180, 300], rows),
        }
    )


def test_signals_name_the_column_and_mean_what_they_say(monitoring: Any) -> None:
    random = np.random.default_rng(3)
    before, after = frames(random, 2_000), frames(random, 1_000)
    after["distance"] = after["distance"] + 60
    after.loc[:200, "carrier"] = "ZZ"
    after.loc[:150, "seats"] = None
    signals = [
        monitoring.Signal.parse(entry)
        for entry in (
            {
                "type": "data_drift",
                "numerical": {"normalized_wasserstein_distance": 0.1},
                "categorical": {"jensen_shannon_distance": 0.1},
                "warn_only": ["carrier"],
            },
            {"type": "data_quality", "thresholds": {"null_value_rate": 0.05, "out_of_bounds_rate": 0.05}},
        )
    ]
    readings = monitoring.read(signals, monitoring.Window(before), monitoring.Window(after), min_rows=500)
    levels = {(each.signal, each.feature, each.metric): each.level for each in readings}
    assert levels == {
        ("data_drift", "carrier", "jensen_shannon_distance"): "warn",
        ("data_drift", "distance", "normalized_wasserstein_distance"): "alarm",
        ("data_drift", "seats", "jensen_shannon_distance"): "ok",
        ("data_quality", "carrier", "null_value_rate"): "ok",
        ("data_quality", "carrier", "out_of_bounds_rate"): "alarm",
        ("data_quality", "distance", "null_value_rate"): "ok",
        ("data_quality", "distance", "out_of_bounds_rate"): "ok",
        ("data_quality", "seats", "null_value_rate"): "alarm",
        ("data_quality", "seats", "out_of_bounds_rate"): "ok",
    }
    assert monitoring.worst(readings) == "alarm"
    few = monitoring.read(signals, monitoring.Window(before), monitoring.Window(after[:100]), min_rows=500)
    assert monitoring.worst(few) == "undefined"
    assert "fewer than the 500" in few[0].says


def test_performance_waits_for_labels(monitoring: Any) -> None:
    random = np.random.default_rng(4)
    truth = pd.Series(random.random(2_000) < 0.3)
    good, bad = truth * 0.3 + random.random(2_000), pd.Series(random.random(2_000))
    signal = monitoring.Signal.parse({"type": "model_performance", "thresholds": {"roc_auc": 0.05}})

    def level(prediction: pd.Series, label: pd.Series | None) -> tuple[str, str]:
        baseline = monitoring.Window(pd.DataFrame(), good, truth)
        (found,) = monitoring.read(
            [signal], baseline, monitoring.Window(pd.DataFrame(), prediction, label), min_rows=500
        )
        return found.level, found.says

    assert level(good, truth)[0] == "ok"
    assert level(bad, truth)[0] == "alarm"
    assert level(good, None) == ("undefined", "the target has no labels")
    late = truth.astype("boolean")
    late[:1_700] = pd.NA
    assert level(good, late) == ("undefined", "300 rows have a label, fewer than the 500 a reading needs")
    assert level(good, truth & False) == ("undefined", "the labelled rows are of one class only")


def days(*offsets: int) -> pd.Series:
    return pd.Series([pd.Timestamp("2013-03-08") - pd.Timedelta(days=offset) for offset in offsets])


@pytest.mark.parametrize(
    ("label", "day", "level", "says"),
    [
        ([1, None, 0, 1], days(0, 0, 3, 4), "ok", "0 of 2 rows of 2013-03-06 or before have no outcome (may be 10%)"),
        ([1, 1, None, 1], days(0, 0, 3, 4), "warn", "1 of 2 rows of 2013-03-06 or before have no outcome (may be 10%); "
         "the last day with outcomes is 2013-03-04"),
        ([None] * 4, days(2, 2, 3, 4), "warn", "4 of 4 rows of 2013-03-06 or before have no outcome (may be 10%); "
         "there is none at all"),
        (None, days(2, 2, 3, 4), "warn", "4 of 4 rows of 2013-03-06 or before have no outcome (may be 10%); "
         "there is none at all"),
        ([None] * 4, days(0, 0, 1, 1), "undefined", "no row is of 2013-03-06 or before: no outcome is due yet"),
        ([None] * 4, None, "undefined", "the window doesn't say which day its rows are of"),
    ],
    ids=["in time", "late", "never", "no column", "not due", "no day"],
)  # fmt: skip
def test_outcomes_that_do_not_come_are_a_warning(monitoring: Any, label: Any, day: Any, level: str, says: str) -> None:
    features = pd.DataFrame({"seats": range(4)})
    outcome = None if label is None else pd.Series(label, dtype="Int64")
    target = monitoring.Window(features, pd.Series([0.1] * 4), outcome, day)
    due = monitoring.Outcomes(date(2013, 3, 8), due_days=2)
    signal = monitoring.Signal.parse({"type": "model_performance", "thresholds": {"roc_auc": 0.1}})
    readings = monitoring.read([signal], target, target, min_rows=2, outcomes=due)
    assert [(each.metric, each.level, each.says) for each in readings[1:]] == [("overdue_outcome_rate", level, says)]
    # Whatever became of the performance: late outcomes are never a green.
    assert monitoring.worst(readings) == level or level == "ok"


def test_tiny_and_odd_windows_are_undefined_or_finite_never_an_error(monitoring: Any) -> None:
    random = np.random.default_rng(6)
    before = frames(random, 500).assign(rain=rain(random, 500), note=None, always=1)
    odd = pd.DataFrame(
        {
            "carrier": ["ZZ", None],
            "distance": ["far", 900],
            "seats": [50.0, np.inf],
            "rain": [0.0, 0.0],
            "always": [2, 2],
        }
    )
    drifts = {
        "numerical": dict.fromkeys(monitoring.drift.NUMERICAL_METRICS, 0.1),
        "categorical": dict.fromkeys(monitoring.drift.CATEGORICAL_METRICS, 0.1),
    }
    rates = dict.fromkeys(monitoring.QUALITY_METRICS, 0.1)
    signals = [
        monitoring.Signal.parse({"type": "data_drift", **drifts}),
        monitoring.Signal.parse({"type": "data_quality", "thresholds": rates}),
    ]
    for target in (odd, odd[:1], odd[:0]):
        readings = monitoring.read(signals, monitoring.Window(before), monitoring.Window(target), min_rows=1)
        defined = [each for each in readings if each.value is not None]
        assert all(np.isfinite(each.value) and np.isfinite(each.reference or 0.0) for each in defined)
        assert all(each.says and each.level == "undefined" for each in readings if each.value is None)
        if not len(target):
            assert not defined
    levels = {(each.feature, each.metric): each for each in monitoring.read(
        signals, monitoring.Window(before), monitoring.Window(odd), min_rows=1)}  # fmt: skip
    assert levels["distance", "data_type_error_rate"].value == 0.5
    assert levels["note", "null_value_rate"].value == 1.0 == levels["note", "null_value_rate"].reference
    assert levels["carrier", "out_of_bounds_rate"].value == 0.5  # a new category; the missing one is no category


def test_a_signal_about_captured_requests_reads_those(monitoring: Any) -> None:
    random = np.random.default_rng(7)
    before, asked = frames(random, 2_000), frames(random, 600)
    asked["distance"] += 90
    limits = {"numerical": {"normalized_wasserstein_distance": 0.3}, "features": ["distance"]}
    signals = [
        monitoring.Signal.parse({"type": "data_drift", **limits}),
        monitoring.Signal.parse({"type": "data_drift", "data": "captured", "min_rows": 600, **limits}),
    ]
    baseline, target = monitoring.Window(before), monitoring.Window(frames(random, 2_000))
    found = monitoring.read(signals, baseline, target, min_rows=1_000, captured=monitoring.Window(asked))
    assert [(each.data, each.level, each.rows) for each in found] == [
        ("scored", "ok", 2_000),
        ("captured", "alarm", 600),
    ]
    nothing = monitoring.read(signals, baseline, target, min_rows=1_000, captured="endpoint e captured nothing")
    assert [(each.data, each.level, each.says) for each in nothing[1:]] == [
        ("captured", "undefined", "endpoint e captured nothing")
    ]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"type": "rumour"}, "'rumour' is no signal"),
        ({"type": "data_drift", "numerical": {"psi": 0.1}}, "'psi' is no metric of the signal data_drift"),
        ({"type": "data_drift", "window": 7}, "a signal has no key 'window'"),
    ],
)
def test_a_wrong_signal_says_what_there_is(monitoring: Any, entry: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        monitoring.Signal.parse(entry)


def test_the_job_reads_parquet_and_what_the_data_collector_wrote(tmp_path: Path) -> None:
    python = ROOT / "var/env/compute/bin/python"
    if not python.exists():
        pytest.skip("the compute environment isn't built")
    random = np.random.default_rng(5)
    for name, rows in (("train", 3_000), ("holdout", 1_000)):
        (tmp_path / name).mkdir()
        said = {"probability": random.random(rows), "late": random.integers(0, 2, rows)}
        frames(random, rows).assign(**said).to_parquet(tmp_path / name / "part.parquet")
    sent = frames(random, 800).assign(distance=lambda rows: rows["distance"] + 80)

    def wrote(folder: str, rows: pd.DataFrame, time: str = "2026-05-10T07:00:00Z", **more: str) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        with (tmp_path / folder / "instance.jsonl").open("a") as file:
            file.write(json.dumps({"time": time, "data": rows.to_dict("records"), **more}) + "\n")

    wrote("window/2013/03/08/07", sent)
    wrote("window/2013/03/08/07", sent[:200])
    with (tmp_path / "window/2013/03/08/07/instance.jsonl").open("a") as file:
        file.write('{"data": [{"carri')  # cut off in mid-write
    # Two deployments were asked in the trailing days; only the champion's answers count.
    wrote("captured/v3/model_inputs/2026/05/10/07", sent[:300])
    wrote("captured/v2/model_inputs/2026/05/04/00", sent[300:500])
    wrote("captured/v2/model_inputs/2026/05/03/23", sent)
    wrote("captured/v3/model_inputs/2026/05/10/07", sent, correlationid="azflow-probe-1")  # a roll-out's own
    wrote("captured/v2/model_inputs/2026/05/10/08", sent, "2026-05-11T00:00:00Z")  # its clock says another day
    wrote("captured/v3/model_outputs/2026/05/10/07", pd.DataFrame({"probability": [0.9] * 300, "late": [True] * 300}))
    wrote("captured/v2/model_outputs/2026/05/10/07", pd.DataFrame({"probability": [0.1] * 300}))
    drift_limits = {"numerical": {"normalized_wasserstein_distance": 0.3}}
    signals = [
        {"type": each, "data": data, **drift_limits}
        for data in ("scored", "captured")
        for each in ("data_drift", "prediction_drift")
    ]
    given = {"baseline": tmp_path / "train", "holdout": tmp_path / "holdout", "target": tmp_path / "window"}
    more = {"signals": json.dumps(signals), "readings": tmp_path / "readings", "prediction": "probability"}
    more |= {"captured": tmp_path / "captured", "captured-deployment": "v3", "captured-until": "2026-05-10"}
    more |= {"captured-days": "7", "min-rows": "300", "window-end": "2013-03-08"}
    more |= {"outcomes": json.dumps({"day": "flight_date", "due_days": 1, "max_missing": 0.1})}
    command = [str(python), "monitor.py", "--label", "late", "--model-version", "3"]
    for name, value in {**given, **more}.items():
        command += [f"--{name}", str(value)]
    tracking = {"MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true"}
    ended = subprocess.run(
        command,
        cwd=INCLUDE / "ml/code/monitoring",
        env={**os.environ, **tracking, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "readings/monitoring.json").read_text())
    assert (found["level"], found["rows"], found["model_version"]) == ("alarm", 1_000, "3")
    levels = {
        (each["data"], each["feature"]): (each["level"], each["rows"], each["says"]) for each in found["readings"]
    }
    assert levels["scored", "distance"][0] == "alarm"
    assert levels["scored", "prediction"] == ("undefined", 0, "prediction: the target has no predictions")
    assert levels["captured", "distance"][:2] == ("alarm", 500)
    assert levels["captured", "prediction"][:2] == ("alarm", 300)  # 0.9 everywhere: the champion's answers alone
    assert levels["scored", ""] == ("undefined", 0, "the window doesn't say which day its rows are of")
    assert found["captured_rows"] == 500
    assert {(each["data"], each["column"]) for each in found["distributions"]} >= {("captured", "prediction")}
    assert "1 line(s) are no collected event" in ended.stdout
    written = pd.read_parquet(tmp_path / "readings/readings.parquet")
    assert len(written) == len(found["readings"])
