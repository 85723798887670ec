"""Points of the unit cube for a sweep's trials: a Sobol sequence, or Bayesian optimization of what trials reported.

A process that is asked on standard input and answers on standard output, one JSON object a line:

    {"sampler": "sobol", "seed": 7, "dimensions": 3}                                    first, once
    {"sampler": "bayesian", "seed": null, "maximize": true, "choices": [0, 0, 4]}       choices: 0 for a range
    {"ask": 0}                                  -> {"point": [0.5, 0.25, 0.75]}         the point of trial 0
    {"tell": 0, "value": 0.81}                                                          null: trial 0 gave no value

It ends with its input. Sobol: https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.qmc.Sobol.html;
Bayesian: the tree-structured Parzen estimator, https://optuna.readthedocs.io/en/stable/reference/samplers/.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

# How many trials are drawn at random before the estimator takes over; optuna's default.
_STARTUP_TRIALS = 10


class Points(Protocol):
    """A source of points. `tell` is given what became of one."""

    def ask(self, trial: int) -> list[float]: ...
    def tell(self, trial: int, value: float | None) -> None: ...


class Sobol:
    """A scrambled Sobol sequence: the same seed gives the same points."""

    def __init__(self, seed: int | None, dimensions: int) -> None:
        from scipy.stats import qmc

        self._sequence = qmc.Sobol(d=dimensions, scramble=True, rng=seed)

    def ask(self, trial: int) -> list[float]:
        with warnings.catch_warnings():
            # One point at a time keeps the sequence, but not the balance that a power of two has.
            warnings.simplefilter("ignore", UserWarning)
            return [float(each) for each in self._sequence.random(1)[0]]

    def tell(self, trial: int, value: float | None) -> None:
        """Nothing: the sequence is fixed."""


class Bayesian:
    """A tree-structured Parzen estimator. Trials that still run count as poor ones, so that they aren't repeated."""

    def __init__(self, seed: int | None, maximize: bool, choices: list[int]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=True
        )
        self._study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
        self._failed = optuna.trial.TrialState.FAIL
        self._choices = choices
        self._asked: dict[int, Any] = {}

    def ask(self, trial: int) -> list[float]:
        asked = self._asked[trial] = self._study.ask()
        point = []
        for index, size in enumerate(self._choices):
            if size:
                # The middle of the part of [0, 1) that stands for the choice.
                point.append((asked.suggest_categorical(f"{index}", list(range(size))) + 0.5) / size)
            else:
                point.append(asked.suggest_float(f"{index}", 0.0, 1.0))
        return point

    def tell(self, trial: int, value: float | None) -> None:
        asked = self._asked.pop(trial)
        if value is None:
            self._study.tell(asked, state=self._failed)
        else:
            self._study.tell(asked, value)


def points(asked: dict[str, Any]) -> Points:
    """The source that the first line asks for."""
    kinds: dict[str, Callable[[], Points]] = {
        "sobol": lambda: Sobol(asked["seed"], asked["dimensions"]),
        "bayesian": lambda: Bayesian(asked["seed"], asked["maximize"], asked["choices"]),
    }
    return kinds[asked["sampler"]]()


def answers(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The conversation: what is answered to the lines of the input."""
    source = points(json.loads(next(lines)))
    for line in lines:
        asked = json.loads(line)
        if "ask" in asked:
            yield {"point": source.ask(asked["ask"])}
        else:
            source.tell(asked["tell"], asked["value"])


if __name__ == "__main__":
    for answer in answers(iter(sys.stdin.readline, "")):
        print(json.dumps(answer), flush=True)
