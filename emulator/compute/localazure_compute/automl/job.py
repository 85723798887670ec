"""What every AutoML job does besides its task: reads, reports, tells the executor, tracks, and saves.

outputs/leaderboard.csv, leaderboard.json    the trials, the best one first
outputs/featurization_summary.json           what became of each column
outputs/verifier_results.json                data guardrails
outputs/explanation/feature_importances.json
outputs/predictions/predictions.csv          for the test data, if there is any
"""

from __future__ import annotations

import csv
import json
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pandas as pd

from localazure_compute.automl import metrics, tables
from localazure_compute.automl.errors import SearchError
from localazure_compute.automl.guardrails import Guardrails
from localazure_compute.automl.search import Budget, Search, Trial, Work, now
from localazure_compute.automl.tracking import Runs

MIN_ROWS = 50  # the service refuses fewer
_REPORTED = 6  # digits


class Job(ABC):
    """One AutoML job, as far as it is the same for every task. `plan` is the executor's (executors.automl_plan)."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.target: str = plan["target"]
        self.metric: str = plan["primary_metric"]
        self.began = time.monotonic()
        # The deadline is the executor's, whose clock began before this process was there.
        self.deadline = self.began + plan["deadline"] - time.time()
        self.folder = Path(plan["events"]).parent / "trials"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reports = Path(plan["reports"])
        self.guardrails = Guardrails()
        self.runs = Runs(plan["name"], plan.get("root") or plan["name"])
        self.validation = ""

    @abstractmethod
    def run(self) -> None:
        """Everything, the event `best` last. SearchError if it can't be done."""

    def load(self, role: str) -> pd.DataFrame | None:
        """A table of the job, rows without a target left out; None if the job has none for this role."""
        folder = self.plan.get(role)
        if not folder:
            return None
        frame = tables.read(Path(folder))
        if self.target not in frame:
            have = ", ".join(map(str, frame.columns))
            raise SearchError(f"The data has no target column '{self.target}'; it has {have}.")
        known = frame[self.target].notna()
        if not known.all() and self.plan["task"] != "Forecasting":
            self.say(f"{role}: {(~known).sum()} rows without a value of {self.target} are left out")
            frame = frame[known].reset_index(drop=True)
        self.say(f"{role}: {len(frame)} rows, {frame.shape[1]} columns")
        if role == "training_data" and len(frame) < MIN_ROWS:
            raise SearchError(f"{len(frame)} rows are too few: AutoML needs {MIN_ROWS}.")
        return frame

    def search(self, work: Work) -> Search:
        """The search, not begun."""
        plan = self.plan
        budget = Budget(
            deadline=self.deadline,
            timeout=plan["timeout_seconds"],
            trial_timeout=plan["trial_timeout_seconds"],
            trials=plan["max_trials"],
            concurrent=plan["max_concurrent_trials"],
            cores=plan["cores_per_trial"],
            early_termination=plan["early_termination"],
            exit_score=plan["exit_score"],
        )
        ensembles = [name for name, wanted in (("VotingEnsemble", plan["vote"]), ("StackEnsemble", plan["stack"]))
                     if wanted]  # fmt: skip
        search = Search(
            metric=self.metric, work=work, budget=budget, folder=self.folder, ensembles=ensembles,
            ended=self._ended, say=self.say,
        )  # fmt: skip
        if search.slots < plan["max_concurrent_trials"]:
            self.say(f"max_concurrent_trials {plan['max_concurrent_trials']}: {search.slots} at once on this machine")
        self.say(
            f"searching: {', '.join(work.suggestions)}; {self.metric}; {self.validation}; {search.n_jobs} thread(s) a "
            "trial"
        )
        return search

    def child(self, trial: Trial) -> str:
        return f"{self.plan['name']}_{trial.number}"

    def say(self, text: str) -> None:
        """A line of the job's log."""
        print(f"[{time.monotonic() - self.began:6.1f}] {text}", flush=True)

    def tell(self, event: str, **facts: Any) -> None:
        """An event for the executor."""
        with Path(self.plan["events"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")

    def report(self, path: str, content: Any) -> None:
        """An artifact of the run."""
        target = self.reports / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")

    def leaderboard(self, search: Search) -> None:
        """The trials as artifacts, ranked by the primary metric; those that failed come last."""
        ranked = search.ranked()
        failed = [trial for trial in search.trials if trial not in ranked]
        rows = [
            {
                "rank": place if trial in ranked else None,
                "run_id": self.child(trial),
                "iteration": trial.number,
                "algorithm": trial.algorithm,
                "preprocessor": trial.preprocessor,
                "status": trial.state,
                "duration_seconds": round(trial.seconds, 3),
                **{name: round(value, _REPORTED) for name, value in sorted(trial.metrics.items())},
                "hyperparameters": json.dumps(trial.config),
                "error": trial.error or "",
            }
            for place, trial in enumerate([*ranked, *failed], 1)
        ]
        self.report("leaderboard.json", {"primary_metric": self.metric, "children": rows})
        # The primary metric stands where one looks first.
        head = ["rank", "run_id", "algorithm", self.metric]
        names = head + [name for name in dict.fromkeys(key for row in rows for key in row) if name not in head]
        with (self.reports / "leaderboard.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def facts(self, best: Trial) -> dict[str, Any]:
        """What the model says about itself."""
        return {
            "algorithm": best.algorithm,
            "primary_metric": self.metric,
            "score": best.metrics[self.metric],
            "validation": self.validation,
            "job": self.plan["name"],
            "child": self.child(best),
            "target": self.target,
        }

    def announce(self, best: Trial, facts: dict[str, str]) -> None:
        """The best trial's metrics become the job's; the executor is told which it is."""
        self.runs.best(best, self.child(best), {"validation": self.validation, **facts})
        self.tell(
            "best",
            child=self.child(best),
            algorithm=best.algorithm,
            score=best.metrics[self.metric],
            primary_metric=self.metric,
            metrics=best.metrics,
        )
        self.say(f"model saved ({time.monotonic() - self.began:.1f} s in all)")

    def tested(self, best: Trial, found: dict[str, float], predictions: pd.DataFrame, start: str) -> None:
        """The best model's test: a run of its own with metrics, and the predictions."""
        folder = self.reports / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        predictions.to_csv(folder / "predictions.csv", index=False)
        name = f"{self.plan['name']}_test"
        number = len(predictions)
        score = found.get(self.metric)
        self.say(f"test of {self.child(best)}: {self.metric} {score} on {number} rows")
        trial = Trial(best.number, best.algorithm, best.config, "", best.preprocessor, start, time.monotonic())
        trial.metrics, trial.end = found, now()
        self.runs.trial(name, trial, {"model_test_of": self.child(best)})
        self._told("test", name, trial, of=self.child(best))

    def _ended(self, trial: Trial) -> None:
        child, score = self.child(trial), trial.metrics.get(self.metric)
        words = trial.error if trial.error or score is None else f"{self.metric} {score:.4f}"
        self.say(f"{child}  {trial.algorithm:20}  {trial.seconds:6.1f} s  {words}")
        self.runs.trial(child, trial)
        self._told("trial", child, trial)

    def _told(self, event: str, child: str, trial: Trial, **more: Any) -> None:
        self.tell(
            event,
            number=trial.number,
            child=child,
            algorithm=trial.algorithm,
            preprocessor=trial.preprocessor,
            hyperparameters=trial.config,
            metrics=trial.metrics,
            primary_metric=self.metric,
            score=trial.metrics.get(self.metric),
            state=trial.state,
            error=trial.error,
            start=trial.start,
            end=trial.end,
            validation=self.validation,
            lower_is_better=metrics.lower_is_better(self.metric),
            **more,
        )
