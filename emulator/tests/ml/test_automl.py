"""AutoML's search, in the compute environment: three tasks from a table to a model, and what can't succeed."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from localazure.executors.automl_plan import plan

READER = {"read_delimited": {"delimiter": ",", "header": "all_files_same_headers", "encoding": "utf8"}}


class Run:
    """One search over CSV rows: its events, log, artifacts and model."""

    def __init__(self, compute: Any, folder: Path, table: str, details: dict[str, Any], **more: Any) -> None:
        self.folder = folder
        place(folder / "table", table)
        properties = {"jobType": "AutoML", "taskDetails": {"trainingData": {"uri": "azureml:t:1"}, **details}, **more}
        path = folder / "plan.json"
        path.write_text(json.dumps(told(plan(properties), folder, folder / "table")))
        ended = compute.run("-m", "localazure_compute.automl", path)
        self.log = ended.stdout + ended.stderr
        self.events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        self.trials = [event for event in self.events if event["event"] == "trial"]

    def artifact(self, name: str) -> Any:
        return json.loads((self.folder / "outputs" / name).read_text())


def told(found: dict[str, Any], folder: Path, table: Path) -> dict[str, Any]:
    paths = {"model": str(folder / "model"), "events": str(folder / "events.jsonl"), "reports": str(folder / "outputs")}
    names = {"name": "j", "root": "j", "training_data": str(table)}
    return found | names | paths | {"deadline": time.time() + found["timeout_seconds"]}


def place(folder: Path, table: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text(table)
    (folder / "MLTable").write_text(json.dumps({"paths": [{"pattern": "./*.csv"}], "transformations": [READER]}))


def flights(count: int) -> str:
    lines = [
        f"id{i},2013-01-{1 + i * 28 // count:02},{i % 24},{['A', 'B', ''][i % 3]},{'' if i % 10 == 0 else i % 7},"
        f"{'yes' if int(i % 24 > 12) ^ int(i % 19 == 0) else 'no'}"
        for i in range(count)
    ]
    return "id,day,hour,carrier,gaps,late\n" + "\n".join(lines) + "\n"


def test_classification_ends_with_a_model_that_needs_nothing_of_ours(compute: Any, tmp_path: Path) -> None:
    details = {
        "taskType": "Classification", "targetColumnName": "late", "primaryMetric": "AUCWeighted",
        "positiveLabel": "yes",
        "limitSettings": {"timeout": "PT3M", "maxTrials": 4, "maxConcurrentTrials": 2},
        "trainingSettings": {"allowedTrainingAlgorithms": ["XGBoostClassifier", "LogisticRegression"]},
        "testDataSize": 0.1,
    }  # fmt: skip
    run = Run(compute, tmp_path, flights(900), details, tags={"split_type": "time", "time_column_name": "day"})
    best = run.events[-1]
    assert best["event"] == "best", run.log
    assert sorted(trial["child"] for trial in run.trials) == ["j_0", "j_1", "j_2", "j_3"]
    # Ensembles are the last of max_trials, as in the service.
    assert [trial["algorithm"] for trial in run.trials[-2:]] == ["VotingEnsemble", "StackEnsemble"]
    assert best["score"] == max(trial["score"] for trial in run.trials) > 0.8
    assert {"AUC_weighted", "AUC_binary", "norm_macro_recall", "log_loss"} <= set(run.trials[0]["metrics"])
    assert "not a feature: id (an identifier" in run.log
    assert "the newest" in run.trials[0]["validation"]

    board = list(csv.DictReader((tmp_path / "outputs/leaderboard.csv").open()))
    assert list(board[0])[:4] == ["rank", "run_id", "algorithm", "AUC_weighted"]
    assert (board[0]["run_id"], len(board)) == (best["child"], 4)
    assert [float(row["AUC_weighted"]) for row in board] == sorted(float(r["AUC_weighted"]) for r in board)[::-1]
    guardrails = {each["name"]: each["state"] for each in run.artifact("verifier_results.json")}
    assert guardrails["Missing feature values imputation"] == "Done"
    assert guardrails["High cardinality feature detection"] == "Done"
    summary = {each["RawFeatureName"]: each for each in run.artifact("featurization_summary.json")}
    assert (summary["id"]["Dropped"], summary["carrier"]["Transformations"]) == ("Yes", ["StringCast", "OneHotEncoder"])
    importances = run.artifact("explanation/feature_importances.json")["feature_importances"]
    assert importances[0]["feature"] == "hour"
    (test,) = [event for event in run.events if event["event"] == "test"]
    assert (test["of"], test["metrics"]["AUC_weighted"] > 0.7) == (best["child"], True)
    assert (tmp_path / "outputs/predictions/predictions.csv").read_text().startswith("late_orig,late_predicted,")

    script = """
        import json, sys
        import mlflow.sklearn, pandas as pd
        from mlflow.models import get_model_info
        model = mlflow.sklearn.load_model(sys.argv[1])
        frame = pd.DataFrame([{"hour": 20, "carrier": "Z", "gaps": None}, {"hour": 2, "carrier": None, "gaps": 3}])
        info = get_model_info(sys.argv[1])
        print(json.dumps([model.predict(frame).tolist(), model.predict_proba(frame).shape, model.classes_.tolist(),
                          "localazure_compute" in sys.modules, info.signature.inputs.input_names(),
                          info.saved_input_example_info is not None]))
    """
    loaded = compute.answer(script, tmp_path / "model", own=False)
    assert loaded == [["yes", "no"], [2, 2], ["no", "yes"], False, ["hour", "carrier", "gaps"], True]
    requirements = (tmp_path / "model/requirements.txt").read_text()
    assert "scikit-learn==" in requirements


def test_regression_with_settings_of_its_own(compute: Any, tmp_path: Path) -> None:
    """Featurization by hand, weights, folds from columns; algorithms that the service has beside the usual ones."""
    words = ("late and slow", "on time", "early bird flight", "slow and sad and late")
    lines = []
    for i in range(400):
        delay = 10 * (i % 8) + 5 * (i % 4 in (0, 3)) + i % 5
        lines.append(f"{delay},{i % 8},c{i % 60},{words[i % 4]} number {i},{1 + i % 2},{int(i % 2 == 0)},"
                     f"{int(i % 3 == 0)},2013-0{1 + i % 9}-01")  # fmt: skip
    table = "delay,step,code,words,weight,fold1,fold2,day\n" + "\n".join(lines) + "\n"
    details = {
        "taskType": "Regression", "targetColumnName": "delay", "primaryMetric": "R2Score",
        "weightColumnName": "weight", "cvSplitColumnNames": ["fold1", "fold2"],
        "limitSettings": {"timeout": "PT3M", "maxTrials": 8, "exitScore": 0.9999},
        "trainingSettings": {"allowedTrainingAlgorithms": ["DecisionTree", "GradientBoosting", "KNN", "SGD",
                                                           "LassoLars", "ElasticNet"],
                             "enableStackEnsemble": False},
        "featurizationSettings": {
            "mode": "custom", "blockedTransformers": ["CatTargetEncoder"],
            "columnNameAndTypes": {"step": "Numeric", "day": "Ignore"},
            "transformerParams": {"Imputer": [{"fields": ["step"], "parameters": {"strategy": "most_frequent"}}],
                                  "HashOneHotEncoder": [{"fields": ["code"], "parameters": {"number_of_bits": 4}}]},
        },
    }  # fmt: skip
    run = Run(compute, tmp_path, table, details)
    assert run.events[-1]["event"] == "best", run.log
    assert "KNN is left out: it has no weights of rows" in run.log
    assert "LassoLars is left out" in run.log
    kinds = {each["RawFeatureName"]: each["Transformations"] for each in run.artifact("featurization_summary.json")}
    assert kinds["code"] == ["StringCast", "HashOneHotEncoder"]
    assert kinds["words"] == ["StringCast", "TfIdf"]
    assert kinds["day"] == []
    assert run.trials[0]["validation"] == "folds of the column(s) fold1, fold2"
    assert {trial["algorithm"] for trial in run.trials} >= {"GradientBoosting", "DecisionTree", "SGD", "ElasticNet"}
    assert all(not trial["error"] for trial in run.trials), run.log
    assert run.events[-1]["score"] > 0.95


def departures(hours: int) -> str:
    lines = []
    for origin, level in (("EWR", 20), ("JFK", 40)):
        for n in range(hours):
            value = level + 10 * math.sin(2 * math.pi * n / 24) + 5 * math.cos(2 * math.pi * n / 12) + (n * 7 % 5) / 5
            if n % 97:  # some hours are missing
                lines.append(f"2013-01-{1 + n // 24:02} {n % 24:02}:00:00,{origin},{n % 3},{value:.3f}")
    return "hour_start,origin,shift,departures\n" + "\n".join(lines) + "\n"


def test_forecasting_ends_with_a_model_of_the_future(compute: Any, tmp_path: Path) -> None:
    details = {
        "taskType": "Forecasting", "targetColumnName": "departures", "primaryMetric": "NormalizedRootMeanSquaredError",
        "limitSettings": {"timeout": "PT3M", "maxTrials": 6},
        "nCrossValidations": {"mode": "Custom", "value": 2},
        "trainingSettings": {"allowedTrainingAlgorithms": ["Naive", "SeasonalNaive", "ElasticNet",
                                                           "ExponentialSmoothing", "AutoArima"]},
        "forecastingSettings": {
            "timeColumnName": "hour_start", "timeSeriesIdColumnNames": ["origin"], "frequency": "h",
            "forecastHorizon": {"mode": "Custom", "value": 12}, "targetLags": {"mode": "Auto"},
            "targetRollingWindowSize": {"mode": "Custom", "value": 3}, "useStl": "Season",
        },
    }  # fmt: skip
    run = Run(compute, tmp_path, departures(24 * 20), details)
    assert run.events[-1]["event"] == "best", run.log
    score = {trial["algorithm"]: trial["score"] for trial in run.trials}
    assert set(score) == {"Naive", "SeasonalNaive", "ElasticNet", "ExponentialSmoothing", "AutoArima", "VotingEnsemble"}
    assert run.events[-1]["score"] < score["SeasonalNaive"] < score["Naive"]
    assert "2 time series, frequency h, horizon 12, season 24" in run.log
    guardrails = {each["name"]: each for each in run.artifact("verifier_results.json")}
    assert guardrails["Missing periods and target values"]["description"].startswith("8 ")
    script = """
        import json, sys
        import mlflow, numpy as np, pandas as pd
        model = mlflow.sklearn.load_model(sys.argv[1])
        hours = pd.date_range("2013-01-21", periods=30, freq="h")
        frame = pd.DataFrame({"hour_start": hours, "origin": "JFK", "shift": np.arange(480, 510) % 3})
        frame = pd.concat([frame, frame.assign(origin="EWR")], ignore_index=True)
        n = (np.tile(np.arange(480, 510), 2))
        level = np.repeat([40, 20], 30)
        actual = level + 10 * np.sin(2 * np.pi * n / 24) + 5 * np.cos(2 * np.pi * n / 12) + 0.4
        ahead = model.predict(frame)                                  # 30 hours: beyond the horizon, too
        known = np.where(np.tile(np.arange(30), 2) < 20, actual, np.nan)
        moved, indexed = model.forecast(frame, known)                 # twenty hours of context
        quantiles = model.forecast_quantiles(frame, quantiles=[0.1, 0.9])
        rolling = model.rolling_forecast(frame, actual, step=12)
        missed = (rolling["_automl_forecast_y"] - rolling["_automl_actual_y"]).abs().mean()
        served = mlflow.pyfunc.load_model(sys.argv[1]).predict(frame.head(3))
        out = {"error": float(np.abs(ahead - actual).mean()), "kept": bool((moved[:20] == known[:20]).all()),
               "moved": float(np.abs(moved - actual)[20:30].mean()), "missed": float(missed),
               "names": list(indexed.index.names),
               "quantiles": bool((quantiles[0.1] < quantiles[0.9]).all()), "rolling": len(rolling),
               "served": bool(np.allclose(served, ahead[:3])), "own": "localazure_compute" in sys.modules}
        for name, change in (("unknown", {"origin": "LGA"}), ("past", {"hour_start": pd.Timestamp("2013-01-05")})):
            try:
                model.predict(frame.head(1).assign(**change))
            except ValueError as error:
                out[name] = str(error)
        print(json.dumps(out))
    """
    found = compute.answer(script, tmp_path / "model", own=False)
    assert found["error"] < 3, found
    assert found["moved"] < 3
    assert found["missed"] < 3
    assert (found["kept"], found["quantiles"], found["served"], found["own"]) == (True, True, True, False)
    assert found["names"] == ["hour_start", "origin"]
    assert found["rolling"] == 2 * (12 + 12 + 6)
    assert "origin=LGA is not among those" in found["unknown"]
    assert "only the future is forecast" in found["past"]


def forecast(**settings: Any) -> dict[str, Any]:
    given = {"timeColumnName": "hour_start", "forecastHorizon": {"mode": "Custom", "value": 4}, **settings}
    return {"taskType": "Forecasting", "targetColumnName": "departures", "forecastingSettings": given}


TABULAR = {"taskType": "Classification", "targetColumnName": "late"}
IMPOSSIBLE: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("flights", {"targetColumnName": "delay"}, {}, "no target column 'delay'; it has id, day"),
    ("few", {}, {}, "20 rows are too few"),
    ("flights", {}, {"split_type": "time", "time_column_name": "when"}, "'when' is not in the data"),
    ("flights", {"featurizationSettings": {"mode": "off"}}, {}, "off needs numbers in every column; 'id'"),
    ("flights", {"featurizationSettings": {"columnNameAndTypes": {"x": "Numeric"}}}, {}, "column(s) x, which the data"),
    ("flights", {"featurizationSettings": {"columnNameAndTypes": {"carrier": "Numeric"}}}, {},
     "The column carrier can't be Numeric: it has 'A'"),
    ("flights", {"positiveLabel": "maybe"}, {}, "positive_label 'maybe' is no class of 'late' (no, yes)"),
    ("flights", {"cvSplitColumnNames": ["hour"]}, {}, "must hold 1 (training) and 0 (validation)"),
    ("flights", {"weightColumnName": "gaps"}, {}, "must hold numbers of 0 and more"),
    ("flights", {"taskType": "Regression"}, {}, "of a regression must be numeric; it has 'yes'"),
    ("flights", {"limitSettings": {"maxTrials": 2}}, {"trial_timeout_seconds": 0.001},
     "The budget is too small for one trial"),
    ("hours", forecast(), {}, "stands more than once in the series"),
    ("hours", forecast(timeSeriesIdColumnNames=["gate"]), {}, "names the column(s) gate"),
    ("hours", forecast(timeSeriesIdColumnNames=["origin"], frequency="D"), {}, "lie beside the frequency D"),
    ("hours", forecast(timeSeriesIdColumnNames=["origin"], shortSeriesHandlingConfig="None",
                       targetLags={"mode": "Custom", "values": [900]}), {}, "time series are too short: "),
    ("hours", forecast(timeSeriesIdColumnNames=["shift"], timeColumnName="origin"), {}, "'origin' isn't a time"),
]  # fmt: skip

MANY = """
    import json, sys
    from localazure_compute.automl.__main__ import job_of
    from localazure_compute.automl.errors import SearchError
    found = []
    for plan in json.load(open(sys.argv[1])):
        try:
            job_of(plan).run()
            found.append("nothing")
        except SearchError as error:
            found.append(str(error))
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def failures(compute: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("impossible")
    for name, table in (("flights", flights(300)), ("few", flights(20)), ("hours", departures(24 * 10))):
        place(folder / name, table)
    plans = []
    for table, details, change, _ in IMPOSSIBLE:
        task = {"trainingData": {"uri": "azureml:t:1"}, **(TABULAR if "forecastingSettings" not in details else {})}
        plans.append(told(plan({"taskDetails": {**task, **details}}), folder, folder / table) | change)
    (folder / "plans.json").write_text(json.dumps(plans))
    messages = compute.answer(MANY, folder / "plans.json")
    return {wanted: message for (*_, wanted), message in zip(IMPOSSIBLE, messages, strict=True)}


@pytest.mark.parametrize("message", [wanted for *_, wanted in IMPOSSIBLE])
def test_a_search_that_can_not_succeed_says_why(failures: dict[str, str], message: str) -> None:
    assert message in failures[message]
