"""The trials: each in a forked process of its own, so that a time-out really ends it and memory comes back.

The parent prepares the data once; children inherit it without a copy. The parent itself must not run OpenMP code before
it forks (libgomp hangs in the child), so every fit happens in a child, the final one as well.
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
from typing import Any, Protocol

import cloudpickle
import numpy as np

from localazure_compute.automl import ensembles, metrics
from localazure_compute.automl.errors import SearchError
from localazure_compute.automl.learners import Config, Suggestions

_FORK = multiprocessing.get_context("fork")
_POLL_SECONDS = 0.02
_SECOND_BEST_EVERY = 3
# The service's rule for early termination: not before 20 trials, then after 10 without an improvement.
_EARLY_AFTER = 20
_EARLY_PATIENCE = 10
_MIN_IMPROVEMENT = 1e-4
# What saving the model takes, and how far from its estimate the final fit may be.
_SAVE_SECONDS = 7.0
_CAUTION = 1.4
_ENSEMBLE_MEMBERS = 10
_ENSEMBLE_SECONDS = 0.25  # of the time left, at most
_ENSEMBLE_LEAST = 2.0
_ENSEMBLE_LEAST_MEMBERS = 3
_ENSEMBLE_SHARE = 0.15  # of the time-out that is kept for them, at most


@dataclass
class Trial:
    """One configuration and what became of it. `seconds` is fitting and predicting, over all splits."""

    number: int
    algorithm: str
    config: Config
    suggestion: str
    preprocessor: str
    start: str
    began: float
    end: str = ""
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    members: list[Trial] = field(default_factory=list)  # of an ensemble
    weights: list[float] = field(default_factory=list)

    @property
    def state(self) -> str:
        return "Failed" if self.error else "Completed"


@dataclass
class Budget:
    """Limits of the search. `deadline` is when the model must be saved (time.monotonic()); seconds and counts."""

    deadline: float
    timeout: float
    trial_timeout: float
    trials: int
    concurrent: int
    cores: int | None
    early_termination: bool
    exit_score: float | None

    def remaining(self) -> float:
        return self.deadline - time.monotonic()


class Work(Protocol):
    """What a task supplies. All but `suggestions` and the shares runs in a child."""

    suggestions: dict[str, Suggestions]
    final_share: float  # the rows of the final fit, as a share of those that a trial fits in all its splits

    def preprocessor(self, algorithm: str) -> str:
        """What the trial's scaling is called."""
        ...

    def predict(self, trial: Trial) -> list[np.ndarray]:
        """Fits the configuration on each split; what it predicts for the split's validation rows."""
        ...

    def score(self, predictions: list[np.ndarray], only: str | None = None) -> dict[str, float]:
        """The metrics of such predictions: the mean over the splits."""
        ...

    def stacked(self, members: list[list[np.ndarray]]) -> list[np.ndarray]:
        """What a model of the members' predictions predicts for rows it wasn't fitted on."""
        ...


def now() -> str:
    """As ARM writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Search:
    """Runs trials until the budget is used up; `ended` is told of each one that ends, `say` of what people may ask."""

    def __init__(
        self,
        *,
        metric: str,
        work: Work,
        budget: Budget,
        folder: Path,
        ensembles: list[str],
        ended: Callable[[Trial], None],
        say: Callable[[str], None],
    ) -> None:
        self._metric = metric
        self._work = work
        self._budget = budget
        self._folder = folder
        self._ended = ended
        self._say = say
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.slots = max(1, min(budget.concurrent, cores))
        # For forests; boosting runs in one thread (see learners).
        self.n_jobs = max(1, min(budget.cores or 2, cores // self.slots))
        # Ensembles are the last of the trials, as in the service, once there are two trials to combine.
        self._ensembles = ensembles[: max(0, budget.trials - 2)]
        self.trials: list[Trial] = []
        self._tried: list[str] = []  # algorithms in the order their trials began
        self._ending = False

    def run(self) -> Trial:
        """The best trial. SearchError if none could be completed."""
        running: dict[int, tuple[Any, Trial]] = {}
        while True:
            while len(running) < self.slots and (trial := self._next(len(running))) is not None:
                running[trial.number] = (self._start(trial), trial)
            if not running:
                break
            time.sleep(_POLL_SECONDS)
            for number, (process, trial) in list(running.items()):
                late = self._late(trial)
                if process.is_alive() and not late:
                    continue
                if process.is_alive():
                    process.kill()
                process.join()
                del running[number]
                self._finish(trial, process.exitcode, late)
        for kind in self._ensembles:
            self._combine(kind)
        best = self.best
        if best is None:
            raise SearchError(self._nothing())
        return best

    @property
    def best(self) -> Trial | None:
        """The best completed trial so far."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[Trial]:
        """The completed trials, the best one first."""
        done = [trial for trial in self.trials if self.loss(trial) is not None]
        return sorted(done, key=lambda trial: (self.loss(trial), trial.number))

    def fit_final(self, fit: Callable[[Trial], Any]) -> tuple[Trial, Any]:
        """The best trial that can be fitted on everything in the time left, and what `fit` makes of it in a child.

        An ensemble is its members' fits. SearchError if nothing can be fitted.
        """
        reasons: list[str] = []
        for trial in self.ranked():
            left = self._budget.remaining() - _SAVE_SECONDS
            if reasons and trial is not self._quickest() and self._final_seconds(trial) > left:
                continue
            if trial is not self._quickest():  # what comes to its rescue needs its time
                left -= self._rescue_seconds(trial)
            path, report = self._folder / f"final_{trial.number}.pickle", self._folder / f"final_{trial.number}.json"

            def work(trial: Trial = trial, path: Path = path) -> None:
                path.write_bytes(cloudpickle.dumps(fit(trial)))

            process = _FORK.Process(target=_guarded, args=(work, report))
            process.start()
            process.join(max(1.0, left))
            if process.is_alive():
                process.kill()
                process.join()
                reasons.append(f"{trial.algorithm} took longer than the {left:.0f} s left")
            elif process.exitcode != 0 or not path.exists():
                reasons.append(f"{trial.algorithm} failed: {_error(report, process.exitcode)}")
            else:
                return trial, cloudpickle.loads(path.read_bytes())
            self._say(f"the final fit on all rows: {reasons[-1]}")
        raise SearchError(f"No model could be fitted on all rows: {'; '.join(reasons)}.")

    def predictions(self, trial: Trial) -> list[np.ndarray]:
        """What a completed trial predicted for the validation rows of each split."""
        with np.load(self._folder / f"{trial.number}.npz") as saved:
            return [saved[f"p{number}"] for number in range(len(saved.files))]

    def loss(self, trial: Trial) -> float | None:
        """What the search minimises; None for a trial that failed."""
        if trial.error or self._metric not in trial.metrics:
            return None
        return metrics.loss(self._metric, trial.metrics[self._metric])

    def _next(self, running: int) -> Trial | None:
        """The next trial, or None when there shall be none (now)."""
        begun = len(self.trials) + running
        if self._ending or begun >= self._budget.trials - len(self._ensembles) or self._left_for_trials() <= 0:
            return None
        if self._good_enough():
            self._ending = True
            return None
        quickest = min((trial.seconds for trial in self.trials if not trial.error), default=0.0)
        if self.best is not None and self._left_for_trials() < quickest:  # not worth beginning
            return None
        for name in self._order():
            suggested = self._work.suggestions[name].next()
            if suggested is not None:
                identifier, config = suggested
                self._tried.append(name)
                number = len(self._tried) - 1
                return Trial(number, name, config, identifier, self._work.preprocessor(name), now(), time.monotonic())
        return None

    def _order(self) -> list[str]:
        """Which algorithm is next: each one once, then the best one, every third time the second best."""
        fresh = [name for name in self._work.suggestions if name not in self._tried]
        if fresh:
            return fresh

        def best_loss(name: str) -> float:
            losses = [self.loss(trial) for trial in self.trials if trial.algorithm == name]
            return min((each for each in losses if each is not None), default=np.inf)

        ranked = sorted(self._work.suggestions, key=best_loss)
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
            self._say(f"exit score {wanted} is reached")
            return True
        if not self._budget.early_termination or len(self.trials) < _EARLY_AFTER + _EARLY_PATIENCE:
            return False
        before = [self.loss(t) for t in self.trials[:-_EARLY_PATIENCE]]
        known = min((each for each in before if each is not None), default=np.inf)
        if known - (self.loss(best) or 0.0) < _MIN_IMPROVEMENT:
            self._say(f"no improvement in {_EARLY_PATIENCE} trials: early termination")
            return True
        return False

    def _left(self) -> float:
        """Seconds for trials: the final fit of the best one and saving it need theirs."""
        best = self.best
        if best is None:
            return self._budget.remaining() - _SAVE_SECONDS - 0.1 * self._budget.timeout
        final = self._final_seconds(best) + self._rescue_seconds(best)
        return self._budget.remaining() - _SAVE_SECONDS - final

    def _left_for_trials(self) -> float:
        """Without what the ensembles need: to be found, and their members to be fitted on all rows."""
        if not self._ensembles or self.best is None:
            return self._left()
        members = sorted(self._final_seconds(trial) for trial in self._members())[:_ENSEMBLE_LEAST_MEMBERS]
        return self._left() - min(_ENSEMBLE_SHARE * self._budget.timeout, 2 * _ENSEMBLE_LEAST + sum(members))

    def _quickest(self) -> Trial | None:
        """The completed trial whose final fit takes least: what is left if the best one's takes too long."""
        return min(self.ranked(), key=self._final_seconds, default=None)

    def _rescue_seconds(self, trial: Trial) -> float:
        quickest = self._quickest()
        return 0.0 if quickest is None or quickest is trial else self._final_seconds(quickest)

    def _final_seconds(self, trial: Trial) -> float:
        if trial.members:
            voting = trial.weights or [1.0] * len(trial.members)
            pairs = zip(trial.members, voting, strict=True)
            return sum(self._final_seconds(member) for member, weight in pairs if weight)
        return _CAUTION * trial.seconds * self._work.final_share

    def _late(self, trial: Trial) -> bool:
        return time.monotonic() - trial.began > self._budget.trial_timeout or self._left_for_trials() <= 0

    def _start(self, trial: Trial) -> Any:
        path = self._folder / f"{trial.number}.json"

        def work() -> None:
            began = time.monotonic()
            found = self._work.predict(trial)
            self._keep(trial, found)
            path.write_text(json.dumps({"metrics": self._work.score(found), "seconds": time.monotonic() - began}))

        process = _FORK.Process(target=_guarded, args=(work, path))
        process.start()
        return process

    def _keep(self, trial: Trial, found: list[np.ndarray]) -> None:
        np.savez(self._folder / f"{trial.number}.npz", **{f"p{number}": part for number, part in enumerate(found)})

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
            trial.weights = outcome.get("weights", [])
            if self._metric not in trial.metrics:
                trial.error = (
                    f"{self._metric} isn't defined for the validation data (is there more than one class in it?)"
                )
        if not trial.members:
            self._work.suggestions[trial.algorithm].told(trial.suggestion, self.loss(trial), trial.seconds)
        self.trials.append(trial)
        self._ended(trial)

    def _combine(self, kind: str) -> None:
        """An ensemble of the best trials as a trial of its own, if there are two to combine and time for it."""
        members = self._members()
        left = self._left()
        if len(members) < 2 or left < _ENSEMBLE_LEAST:  # noqa: PLR2004
            why = "there are no two trials to combine" if left >= _ENSEMBLE_LEAST else "no time is left"
            self._say(f"{kind} is left out: {why}")
            return
        # What can't be fitted on all rows in time needn't be found.
        while len(members) > 1 and sum(self._final_seconds(member) for member in members) > left:
            members.remove(max(members, key=self._final_seconds))
        trial = Trial(len(self.trials), kind, {}, "", "", now(), time.monotonic(), members=members)
        path = self._folder / f"{trial.number}.json"

        def work() -> None:
            began = time.monotonic()
            parts = [self.predictions(member) for member in members]
            weights: list[float] = []
            if kind == ensembles.VOTING:
                weights = ensembles.select(parts, self._blended_loss, began + _ENSEMBLE_SECONDS * left)
                found = ensembles.blend(parts, weights)
            else:
                found = self._work.stacked(parts)
            self._keep(trial, found)
            outcome = {"metrics": self._work.score(found), "seconds": time.monotonic() - began, "weights": weights}
            path.write_text(json.dumps(outcome))

        process = _FORK.Process(target=_guarded, args=(work, path))
        process.start()
        process.join(max(0.0, min(left, self._budget.trial_timeout)))
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        trial.config = {"members": [member.number for member in members]}
        self._finish(trial, process.exitcode, late)

    def _members(self) -> list[Trial]:
        """The best trial of each algorithm, then the best of the rest."""
        ranked = [trial for trial in self.ranked() if not trial.members]
        first = {trial.algorithm: trial for trial in reversed(ranked)}
        leading = [trial for trial in ranked if first[trial.algorithm] is trial]
        return (leading + [trial for trial in ranked if trial not in leading])[:_ENSEMBLE_MEMBERS]

    def _blended_loss(self, predictions: list[np.ndarray]) -> float:
        found = self._work.score(predictions, self._metric)
        return metrics.loss(self._metric, found[self._metric]) if self._metric in found else np.inf

    def _nothing(self) -> str:
        budget = self._budget
        if not self.trials:
            return f"The time-out of {budget.timeout:.0f} s was used up before the first trial could begin."
        first = self.trials[0]
        if all(trial.error and trial.error.startswith("stopped") for trial in self.trials):
            return (
                f"The budget is too small for one trial: none of {len(self.trials)} ended within "
                f"{budget.trial_timeout:.0f} s a trial and {budget.timeout:.0f} s in all (the first, "
                f"{first.algorithm}, ran {first.seconds:.0f} s). Raise limits.trial_timeout_minutes or "
                "limits.timeout_minutes, or give less data."
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
