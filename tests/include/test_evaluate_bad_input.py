"""Hold-outs and models that nobody can judge: what the evaluation job leaves, and what the gate says of it.

The job's own packages aren't here; a model is a stand-in with the methods the code calls.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rendering import INCLUDE

from azflow.guardrails import PromotionRules, Verdict, judge_challenger

MODULES = ("scoring", "bootstrap", "classification", "regression", "forecasting", "evaluate")
RULES = PromotionRules(max_loss=0.01, floor=0.6, min_rows=100, promote_if="not_worse")
RANDOM = np.random.default_rng(7)
HOLDOUT = pd.DataFrame({"hour": RANDOM.integers(0, 24, 600), "carrier": ["UA", "B6"] * 300})
HOLDOUT["late"] = (HOLDOUT["hour"] + RANDOM.normal(0, 4, 600) > 15).astype(int)


class Model:
    """Answers by the hour; `wrong` changes the answers."""

    def __init__(self, wrong: Callable[[np.ndarray], np.ndarray] = lambda found: found) -> None:
        self._wrong = wrong

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        late = self._wrong(rows["hour"].to_numpy() / 24)
        return np.column_stack([1 - late, late])


def without_rows(found: np.ndarray) -> np.ndarray:
    return found[:-1]


def with_nan(found: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(found)) < 3, np.nan, found)


class Job:
    """The evaluation job with its folders; `run` answers (evidence, verdict)."""

    def __init__(self, folder: Path, models: dict[str, Any], main: Callable[[], None], patch: Any) -> None:
        self.folder, self.models = folder, models
        self._main, self._patch = main, patch

    def run(self, rows: pd.DataFrame, champion: bool = True, **more: str) -> tuple[dict[str, Any], Verdict]:
        (self.folder / "holdout").mkdir(exist_ok=True)
        rows.to_parquet(self.folder / "holdout/part.parquet")
        given = {"task": "classification", "metric": "roc_auc", "label": "late", "history": "none"}
        given |= {"challenger": str(self.folder / "challenger"), "champion": str(self.folder / "champion")}
        given |= {"champion-version": "3" if champion else "none", "holdout": str(self.folder / "holdout")}
        given |= {"evidence": str(self.folder / "evidence"), "resamples": "50", "slices": "carrier", **more}
        self._patch.setattr(sys, "argv", ["evaluate.py", *(part for k, v in given.items() for part in (f"--{k}", v))])
        self._main()
        evidence = json.loads((self.folder / "evidence/evidence.json").read_text())
        return evidence, judge_challenger(evidence, RULES)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Job:
    models: dict[str, Any] = {}

    def load(folder: str) -> Any:
        found = models[Path(folder).name]
        if isinstance(found, Exception):
            raise found
        return found

    mlflow: Any = ModuleType("mlflow")
    mlflow.sklearn = SimpleNamespace(load_model=load)
    mlflow.log_metrics = lambda metrics: None
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.syspath_prepend(str(INCLUDE / "ml/code/evaluate"))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    main = importlib.import_module("evaluate").main
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    models |= {"challenger": Model(), "champion": Model()}
    return Job(tmp_path, models, main, monkeypatch)


def test_a_good_pair_has_figures(job: Job) -> None:
    evidence, verdict = job.run(HOLDOUT)
    assert verdict.promote and evidence["unlabelled"] == 0
    assert evidence["difference"]["value"] == 0.0


@pytest.mark.parametrize(("late", "positives"), [(0, "0 of 600"), (1, "600 of 600")])
def test_one_class(job: Job, late: int, positives: str) -> None:
    evidence, verdict = job.run(HOLDOUT.assign(late=late))
    assert evidence["challenger"]["value"] is evidence["difference"]["value"] is None
    assert not verdict.promote
    assert f"one class only: {positives} rows are positive. Judge on more days" in verdict.reasons[0]


def test_too_few_rows(job: Job) -> None:
    _, verdict = job.run(HOLDOUT[:40])
    assert not verdict.promote
    assert "the hold-out has 40 rows, fewer than the 100 a decision needs (min_rows): were all" in verdict.reasons[0]


def test_a_first_model_has_nobody_to_beat(job: Job) -> None:
    job.models["champion"] = OSError("nobody may load it")
    evidence, verdict = job.run(HOLDOUT, champion=False)
    assert evidence["champion"] is evidence["champion_version"] is None
    assert verdict.promote and "there is no champion to beat" in verdict.reasons[0]


def test_labels_that_have_not_come(job: Job) -> None:
    some = HOLDOUT.assign(late=HOLDOUT["late"].astype(float).mask(HOLDOUT.index < 200))
    evidence, verdict = job.run(some)
    assert (evidence["rows"], evidence["unlabelled"]) == (400, 200) and verdict.promote
    evidence, verdict = job.run(HOLDOUT.assign(late=np.nan))
    assert (evidence["rows"], evidence["unlabelled"]) == (0, 600) and not verdict.promote
    assert any("none of the hold-out's 600 rows has its late yet" in reason for reason in verdict.reasons)


SIGNATURE = """
signature:
  inputs: '[{"name": "hour", "type": "long"}, {"name": "seats", "type": "double"},
    {"name": "note", "type": "string", "required": false}]'
"""


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (ModuleNotFoundError("No module named 'xgboost'"), "ModuleNotFoundError: No module named 'xgboost'"),
        (Model(with_nan), "3 of its 600 predictions aren't finite numbers"),
        (Model(without_rows), "it answered 599 predictions for 600 rows"),
        (Model(lambda found: found * 3), "probabilities lie outside 0 and 1, e.g. "),
        (SimpleNamespace(), "has no attribute 'predict_proba'"),
    ],
)
def test_models_that_cannot_be_scored(job: Job, broken: Any, says: str) -> None:
    """A champion leaves nobody to compare with, a challenger loses."""
    job.models["champion"] = broken
    evidence, verdict = job.run(HOLDOUT)
    assert evidence["challenger"]["value"] > 0.6 and evidence["champion"]["value"] is evidence["difference"] is None
    assert not verdict.promote
    assert "champion version 3 can't be scored on this hold-out (" in verdict.reasons[0]
    assert says in verdict.reasons[0] and "force_promotion" in verdict.reasons[0]
    # Somebody who has looked may overrule that.
    assert judge_challenger(evidence, RULES, force=True).promote

    job.models |= {"champion": Model(), "challenger": broken}
    evidence, verdict = job.run(HOLDOUT)
    assert not verdict.promote and says in verdict.reasons[0]
    assert verdict.reasons[0].startswith("the challenger's roc_auc is undefined: ")
    assert not judge_challenger(evidence, RULES, force=True).promote


def test_a_champion_whose_columns_are_gone(job: Job) -> None:
    (job.folder / "champion").mkdir()
    (job.folder / "champion/MLmodel").write_text(SIGNATURE)
    _, verdict = job.run(HOLDOUT)
    assert "it learned from columns that the hold-out doesn't have: seats)" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("holdout", "says"),
    [
        (HOLDOUT[:0], "has no rows: was the partition exported"),
        (HOLDOUT.drop(columns="late"), "no column 'late', the label; it has hour, carrier"),
        (HOLDOUT.assign(late="yes"), "the label late must be a number; it is e.g. ['yes'"),
        (HOLDOUT.assign(late=2), "the label late must be 0 or 1; it is e.g. [2.0]"),
        (HOLDOUT.assign(late=np.inf), "the label late is infinite in 600 rows"),
    ],
    ids=["empty", "no label", "text", "three classes", "infinite"],
)
def test_a_hold_out_that_is_none_stops_the_job(job: Job, holdout: pd.DataFrame, says: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        job.run(holdout)
    assert says in str(stopped.value)


def test_a_hold_out_that_is_not_there(job: Job) -> None:
    with pytest.raises(SystemExit, match="has no rows: was the partition exported"):
        job.run(HOLDOUT, holdout=str(job.folder / "nowhere"))
