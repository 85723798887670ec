"""The trials: each in a forked process of its own, so that a time-out really ends it and memory comes back.

The parent transforms the data once; children inherit it without a copy. The parent itself must not run OpenMP code
before it forks
(libgomp hangs in the child), so every fit happens in a child, the final one as well.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from localazure_compute.automl import metrics
from localazure_compute.automl.errors import SearchError
from localazure_compute.automl.learners import LEARNERS, Config, Suggestions

_FORK = multiprocessing.get_context("fork")
_POLL_SECONDS = 0.02
_BINARY = 2
_SECOND_BEST_EVERY = 3
# The service's rule for early termination: not before 20 trials, then after 10 without an improvement.
_EARLY_AFTER = 20
_EARLY_PATIENCE = 10
_MIN_IMPROVEMENT = 1e-4


@dataclass
class Part:
    """One split: matrices to fit on and to judge by."""

    train: np.ndarray
    train_target: np.ndarray
    valid: np.ndarray
    valid_target: np.ndarray


@dataclass
class Trial:
    """One configuration and what became of it. `seconds` is fitting and predicting, over all splits."""

    number: int
    algorithm: str
    config: Config
    suggestion: str
    start: str
    began: float
    end: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def state(self) -> str:
        return "Failed" if self.error else "Completed"


@dataclass
class Budget:
    """Limits of the search, in seconds and counts."""

    timeout: float
    trial_timeout: float
    trials: int
    concurrent: int
    early_termination: bool
    exit_score: float | None


def now() -> str:
    """As ARM writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Search:
    """Runs trials until the budget is used up; `ended` is told of each one that ends."""

    def __init__(
        self,
        *,
        task: str,
        metric: str,
        algorithms: list[str],
        parts: list[Part],
        classes: int,
        spread: float,
        budget: Budget,
        folder: Path,
        ended: Callable[[Trial], None],
    ) -> None:
        self._task = task
        self._flaml_task = "regression" if task == "Regression" else "binary" if classes == _BINARY else "multiclass"
        self._metric = metric
        self._parts = parts
        self._classes = classes
        self._spread = spread
        self._budget = budget
        self._folder = folder
        self._ended = ended
        rows, columns = parts[0].train.shape
        self._suggestions = {name: Suggestions(LEARNERS[name], self._flaml_task, rows, columns) for name in algorithms}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._slots = max(1, min(budget.concurrent, cores))
        # For forests; boosting runs in one thread (see learners).
        self.n_jobs = max(1, min(2, cores // self._slots))
        self.trials: list[Trial] = []
        self._tried: list[str] = []  # algorithms in the order their trials began
        self._began = time.monotonic()

    def run(self) -> Trial:
        """The best trial. SearchError if none could be completed."""
        running: dict[int, tuple[Any, Trial]] = {}
        while True:
            while len(running) < self._slots and (trial := self._next(len(running))) is not None:
                running[trial.number] = (self._start(trial), trial)
            if not running:
                break
            time.sleep(_POLL_SECONDS)
            for number, (process, trial) in list(running.items()):
                limit = min(self._budget.trial_timeout, self._remaining() + time.monotonic() - trial.began)
                late = time.monotonic() - trial.began > limit
                if process.is_alive() and not late:
                    continue
                if process.is_alive():
                    process.kill()
                process.join()
                del running[number]
                self._finish(trial, process.exitcode, late)
        best = self.best
        if best is None:
            raise SearchError(self._nothing())
        return best

    @property
    def best(self) -> Trial | None:
        """The best completed trial so far."""
        done = [trial for trial in self.trials if self._loss(trial) is not None]
        return min(done, key=lambda trial: self._loss(trial) or 0.0, default=None)

    def fit_final(self, trial: Trial, matrix: np.ndarray, target: np.ndarray, seconds: float) -> Any:
        """The best configuration, fitted on everything. SearchError if that takes longer than `seconds`."""
        path = self._folder / "final.pickle"

        def work() -> None:
            estimator = self._build(trial)
            estimator.fit(matrix, target)
            path.write_bytes(cloudpickle.dumps(estimator))

        process = _FORK.Process(target=_guarded, args=(work, self._folder / "final.json"))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            raise SearchError(f"Fitting {trial.algorithm} on all rows took longer than the {seconds:.0f} s left.")
        if process.exitcode != 0 or not path.exists():
            raise SearchError(
                f"Fitting {trial.algorithm} on all rows failed: {_error(self._folder / 'final.json', process.exitcode)}"
            )
        return cloudpickle.loads(path.read_bytes())

    def _build(self, trial: Trial) -> Any:
        return LEARNERS[trial.algorithm].build(trial.config, self._flaml_task, self.n_jobs)

    def _next(self, running: int) -> Trial | None:
        """The next trial, or None when there shall be none (now)."""
        begun = len(self.trials) + running
        if begun >= self._budget.trials or self._remaining() <= 0 or self._good_enough():
            return None
        quickest = min((trial.seconds for trial in self.trials if not trial.error), default=0.0)
        # What isn't worth beginning: the final fit needs its time, too.
        if self.best is not None and self._remaining() < 2 * quickest:
            return None
        for name in self._order():
            suggested = self._suggestions[name].next()
            if suggested is not None:
                identifier, config = suggested
                self._tried.append(name)
                return Trial(len(self._tried) - 1, name, config, identifier, now(), time.monotonic())
        return None

    def _order(self) -> list[str]:
        """Which algorithm is next: each one once, then the best one, every third time the second best."""
        fresh = [name for name in self._suggestions if name not in self._tried]
        if fresh:
            return fresh

        def best_loss(name: str) -> float:
            return min(
                (self._loss(t) or 0.0 for t in self.trials if t.algorithm == name and self._loss(t) is not None),
                default=np.inf,
            )

        ranked = sorted(self._suggestions, key=best_loss)
        if len(self._tried) % _SECOND_BEST_EVERY == 0 and len(ranked) > 1:
            ranked[0], ranked[1] = ranked[1], ranked[0]
        return ranked

    def _good_enough(self) -> bool:
        best = self.best
        if best is None:
            return False
        wanted = self._budget.exit_score
        if wanted is not None and metrics.loss(self._metric, best.metrics[self._metric]) <= metrics.loss(
            self._metric, wanted
        ):
            print(f"exit score {wanted} is reached", flush=True)
            return True
        if not self._budget.early_termination or len(self.trials) < _EARLY_AFTER + _EARLY_PATIENCE:
            return False
        before = [self._loss(t) for t in self.trials[:-_EARLY_PATIENCE]]
        known = min((each for each in before if each is not None), default=np.inf)
        if known - (self._loss(best) or 0.0) < _MIN_IMPROVEMENT:
            print(f"no improvement in {_EARLY_PATIENCE} trials: early termination", flush=True)
            return True
        return False

    def _remaining(self) -> float:
        return self._budget.timeout - (time.monotonic() - self._began)

    def _loss(self, trial: Trial) -> float | None:
        if trial.error or self._metric not in trial.metrics:
            return None
        return metrics.loss(self._metric, trial.metrics[self._metric])

    def _start(self, trial: Trial) -> Any:
        path = self._folder / f"{trial.number}.json"

        def work() -> None:
            began = time.monotonic()
            found = [self._judge(trial, part) for part in self._parts]
            mean = {
                name: float(np.mean([each[name] for each in found]))
                for name in found[0]
                if all(name in f for f in found)
            }
            path.write_text(json.dumps({"metrics": mean, "seconds": time.monotonic() - began}))

        process = _FORK.Process(target=_guarded, args=(work, path))
        process.start()
        return process

    def _judge(self, trial: Trial, part: Part) -> dict[str, float]:
        estimator = self._build(trial)
        estimator.fit(part.train, part.train_target)
        if self._task == "Regression":
            predicted = estimator.predict(part.valid)
        else:
            # A split may lack a class; its probability is 0 there.
            predicted = np.zeros((len(part.valid), self._classes))
            predicted[:, np.asarray(estimator.classes_, dtype=int)] = estimator.predict_proba(part.valid)
        return metrics.score(self._task, part.valid_target, predicted, self._spread)

    def _finish(self, trial: Trial, code: int | None, late: bool) -> None:
        path = self._folder / f"{trial.number}.json"
        trial.end = now()
        trial.seconds = time.monotonic() - trial.began
        if late:
            trial.error = f"stopped after {trial.seconds:.0f} s: the time-out of a trial or of the job"
        elif code != 0:
            trial.error = _error(path, code)
        else:
            outcome = json.loads(path.read_text())
            trial.metrics, trial.seconds = outcome["metrics"], outcome["seconds"]
            if self._metric not in trial.metrics:
                trial.error = (
                    f"{self._metric} isn't defined for the validation data (is there more than one class in it?)"
                )
        self._suggestions[trial.algorithm].told(trial.suggestion, self._loss(trial), trial.seconds)
        self.trials.append(trial)
        self._ended(trial)

    def _nothing(self) -> str:
        budget = self._budget
        if not self.trials:
            return f"The time-out of {budget.timeout:.0f} s was used up before the first trial could begin."
        first = self.trials[0]
        if all(trial.error and trial.error.startswith("stopped") for trial in self.trials):
            return (
                f"The budget is too small for one trial: none of {len(self.trials)} ended within "
                f"{budget.trial_timeout:.0f} s a "
                f"trial and {budget.timeout:.0f} s in all (the first, {first.algorithm}, ran {first.seconds:.0f} "
                f"s). Raise "
                "limits.trial_timeout_minutes or limits.timeout_minutes, or give less data."
            )
        reasons = "; ".join(f"{trial.algorithm}: {trial.error}" for trial in self.trials[:5])
        return f"No trial could be completed. {reasons}"


def _guarded(work: Callable[[], None], path: Path) -> None:
    """A child's main: the cause of a failure goes where the parent looks."""
    try:
        work()
    except BaseException as error:
        traceback.print_exc()
        path.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        os._exit(1)
    os._exit(0)


def _error(path: Path, code: int | None) -> str:
    try:
        return str(json.loads(path.read_text())["error"])
    except (OSError, ValueError, KeyError):
        return f"the trial's process ended with code {code} (out of memory?)"
