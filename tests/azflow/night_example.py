"""A night as `report.collect` describes it: a second night with a champion to beat. Figures are made up."""

from __future__ import annotations

from typing import Any

STEPS = [
    ("arrival.wait_for_data", 0.0, 1.2, "BlobArrivalSensor"),
    ("prepare.stage_flights", 2.6, 3.1, "SynapseSqlOperator"),
    ("prepare.stage_weather", 2.7, 1.4, "SynapseSqlOperator"),
    ("prepare.stage_planes", 2.9, 1.1, "SynapseSqlOperator"),
    ("prepare.stage_airports", 3.0, 0.9, "SynapseSqlOperator"),
    ("prepare.airport_congestion", 9.9, 31.6, "SynapseNotebookOperator"),
    ("prepare.build_features", 43.2, 3.9, "SynapseSqlOperator"),
    ("data.export", 48.1, 2.2, "SynapseSqlOperator"),
    ("quality.flight_features", 51.9, 7.3, "ExpectationsOperator"),
    ("data.train", 60.8, 2.4, "DataAssetOperator"),
    ("data.holdout", 60.9, 2.5, "DataAssetOperator"),
    ("train.job", 64.8, 74.1, "AzureMLJobOperator"),
    ("evaluate.job", 140.2, 15.0, "AzureMLJobOperator"),
    ("evaluate.verdict", 156.9, 1.3, "EvaluationGate"),
    ("approve", 159.4, 0.6, "AutomaticApproval"),
    ("register.model", 161.3, 1.8, "RegisterModelOperator"),
    ("roll_out.deploy", 164.6, 13.9, "DeployOperator"),
    ("roll_out.traffic", 179.9, 27.5, "RolloutOperator"),
    ("write_back.score", 209.2, 14.2, "AzureMLJobOperator"),
    ("write_back.table", 224.9, 2.9, "SynapseSqlOperator"),
]
TRIALS = [
    ("LightGBM", 0.7184), ("LightGBM", 0.7171), ("XGBoostClassifier", 0.7148), ("LightGBM", 0.7139),
    ("RandomForest", 0.7062),
    ("ExtremeRandomTrees", 0.6987), ("XGBoostClassifier", 0.6951), ("LogisticRegression", 0.6704),
]  # fmt: skip
CURVE = [(0.06, 0.07), (0.1, 0.11), (0.14, 0.13), (0.18, 0.19), (0.22, 0.21), (0.27, 0.28), (0.32, 0.3), (0.39, 0.41)]


def result(
    column: str | None, says: str, *, severity: str = "block", success: bool = True, **found: Any
) -> dict[str, Any]:
    made = {"column": column, "says": says, "severity": severity, "success": success, "rule": "expect_" + says[:4]}
    return {**made, "observed": None, "unexpected_count": 0, "found": "", "examples": [], "error": None, **found}


def stage(percent: int, champion: int, **seen: Any) -> dict[str, Any]:
    traffic = {"blue-7f3a": champion, "green-91c2": 100 - champion}
    base = {"percent": percent, "traffic": traffic, "decision": "advance", "reasons": ["fine"], "errors": 0}
    return {**base, "requests": 84, "p95_ms": 31.4, "agreement": 0.94, "share": percent / 100, "seconds": 8.3, **seen}


def comparison() -> dict[str, Any]:
    """As `azflow.tracking.CompareRunsOperator` leaves it."""
    values = [0.7184, 0.7171, 0.7202, 0.7139, 0.7166, 0.7150, 0.7158, 0.7090]
    runs = [
        {
            "name": f"train-{index}",
            "label": f"2013-03-{9 - index:02}",
            "started": f"2013-03-{10 - index:02}T02:01:05+00:00",
            "metrics": {"AUC_weighted": value, "accuracy": 0.8 + index / 1000},
            "parameters": {"algorithm": "LightGBM" if index % 3 else "XGBoostClassifier", "seed": "1"},
            "data": {"training_data": f"azureml:flight_delay_train:2013-03-{9 - index:02}-0a1b2c3d4e"},
            "commit": "c0ffee",
            "url": f"https://ml.azure.com/runs/train-{index}",
        }
        for index, value in enumerate(values)
    ]
    return {
        "metric": "AUC_weighted",
        "lower": False,
        "rank": 2,
        "unusual": False,
        "summary": ["AUC_weighted 0.7184 (higher is better): 2nd of 8", "+0.0013 against the run before (2013-03-08)"],
        "changed": ["parameter algorithm: LightGBM -> XGBoostClassifier"],
        "url": "https://ml.azure.com/experiments/id/7",
        "runs": runs,
    }


def night() -> dict[str, Any]:
    """A fresh copy each time."""
    steps = [
        {"task": task, "state": "success", "start": start, "seconds": seconds, "operator": operator, "url": ""}
        for task, start, seconds, operator in STEPS
    ]
    steps[12]["url"] = "https://ml.azure.com/runs/train-1"
    quality = {
        "suite": "flight_features.json",
        "table": "ml.flight_features",
        "days": ["2013-03-09", "2013-03-09"],
        "success": True,
        "checked": 28,
        "failed": 0,
        "warned": 2,
        "seconds": 2.1,
        "report": "https://lake.example/quality.html",
        "results": [
            result(None, "row count between 500 and 1,200", observed=764, found="764"),
            result("temp", "temp is never null (at least 0.9 of the rows)", severity="warn", success=False,
                   unexpected_count=121, found="121 rows (15.8 %) break it"),
            result("carrier", "carrier is one of 9E, AA, AS and 13 more", severity="warn", success=False,
                   unexpected_count=3, found="3 rows (0.393 %) break it, e.g. <ZZ>"),
        ],
    }  # fmt: skip
    children = [
        {"name": f"train-1_{index}", "algorithm": algorithm, "metrics": {"AUC_weighted": value, "log_loss": 1 - value}}
        for index, (algorithm, value) in enumerate(TRIALS)
    ]
    slices = [
        ("origin", "EWR", 2284, 0.706, 0.699), ("origin", "JFK", 2096, 0.722, 0.718),
        ("origin", "LGA", 1961, 0.694, 0.701),
        ("carrier", "UA", 1102, 0.689, 0.681), ("carrier", "B6", 1034, 0.711, 0.694),
        ("carrier", "EV", 987, 0.668, 0.672),
        ("carrier", "DL", 846, 0.733, 0.728), ("carrier", "AA", 611, 0.742, 0.735),
    ]  # fmt: skip
    verdict = {
        "promote": True,
        "forced": False,
        "metric": "roc_auc",
        "rows": 6341,
        "confidence": 0.95,
        "reasons": [
            "roc_auc 0.7151 [0.6998, 0.7300] against champion version 1's 0.7093: within the 0.0100 it may lose"
        ],
        "challenger": {"value": 0.7151, "low": 0.6998, "high": 0.73},
        "champion": {"value": 0.7093, "low": 0.6939, "high": 0.7243},
        "difference": {"value": 0.0058, "low": -0.0011, "high": 0.0127},
        "champion_version": "1",
        "slices": [
            {"column": column, "value": value, "rows": rows, "challenger": challenger, "champion": champion}
            for column, value, rows, challenger, champion in slices
        ],
        "challenger_calibration": [{"predicted": a, "observed": b, "rows": 634} for a, b in CURVE],
        "champion_calibration": [{"predicted": a * 0.9, "observed": b, "rows": 634} for a, b in CURVE],
    }
    rollout = {
        "endpoint": "flight-delay",
        "deployment": "green-91c2",
        "champion": "blue-7f3a",
        "traffic": {"blue-7f3a": 0, "green-91c2": 100},
        "url": "https://ml.azure.com/endpoints/flight-delay",
        "stages": [
            stage(0, 100, requests=5, agreement=None, share=None, seconds=0.6),
            stage(10, 90, share=0.093),
            stage(50, 50, share=0.511),
            stage(100, 0, agreement=0.936),
        ],
    }
    return {
        "model": "flight_delay",
        "partition": "2013-03-09",
        "first_day": "2013-03-09",
        "dag_id": "nightly_retraining_flight_delay",
        "run_id": "manual__2013-03-10T02:00:00+00:00",
        "airflow": "http://localhost:8080/dags/nightly_retraining_flight_delay/runs/manual__1",
        "generated": "2013-03-10 02:04 UTC",
        "steps": steps,
        "measured": True,
        "quality": [quality],
        "left": {
            "data.export": {"batches": []},
            "data.train": {
                "id": "azureml:flight_delay_train:20130309.1",
                "rows": 53741,
                "columns": ["flight_id", "late", "distance"],
                "schema_hash": "9c1f" * 4,
            },
            "data.holdout": {"id": "azureml:flight_delay_holdout:20130309.1", "rows": 6341},
            "train.job": {
                "name": "train-1",
                "status": "Completed",
                "url": "https://ml.azure.com/runs/train-1",
                "children": children,
                "best_child": "train-1_0",
                "node_seconds": 66.0,
            },
            "evaluate.compare": comparison(),
            "evaluate.job": {
                "name": "evaluate-1",
                "url": "https://ml.azure.com/runs/evaluate-1",
                "node_seconds": 12.0,
            },
            "evaluate.verdict": verdict,
            "approve": {"approved": True, "by": "gate"},
            "register.model": {
                "id": "azureml:flight_delay:2",
                "name": "flight_delay",
                "version": "2",
                "path": "azureml://x",
            },
            "roll_out.deploy": {"deployment": "green-91c2", "scoring_uri": "https://flight-delay.example/score"},
            "roll_out.traffic": rollout,
            "write_back.score": {"name": "score-1", "url": "https://ml.azure.com/runs/score-1"},
            "write_back.table": {
                "batches": [{"line": 10, "seconds": 0.4, "counts": [{"affected": 764}]}],
                "columns": ["rows", "model_name", "model_version", "deployment"],
                "rows": [[764, "flight_delay", "2", "green-91c2"]],
            },
        },
    }
