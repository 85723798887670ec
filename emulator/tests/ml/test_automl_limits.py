"""AutoML's limits and the ensembles at the search's end, with trials that only wait and answer."""

from __future__ import annotations

from typing import Any

import pytest

SEARCH = """
    import json, tempfile, time
    from pathlib import Path
    import numpy as np
    from localazure_compute.automl import search
    from localazure_compute.automl.errors import SearchError
    from localazure_compute.automl.search import Budget, Search

    search._SAVE_SECONDS = 0.0
    search._ENSEMBLE_LEAST = 0.1

    class Endless:
        def __init__(self, config):
            self.config, self.count = config, 0
        def next(self):
            self.count += 1
            return str(self.count), {"n": self.count - 1, **self.config}
        def told(self, identifier, loss, seconds):
            pass

    class Work:
        final_share = 0.01
        actual = np.array([0.0, 1.0, 2.0, 3.0])
        def __init__(self, **algorithms):
            self.suggestions = {name: Endless(config) for name, config in algorithms.items()}
        def preprocessor(self, algorithm):
            return ""
        def predict(self, trial):
            config = trial.config
            time.sleep(config.get("first" if config["n"] == 0 else "wait", config.get("wait", 0)))
            return [self.actual + config.get("off", 1.0) - config.get("better", 0) * config["n"]]
        def score(self, predictions, only=None):
            return {"mean_absolute_error": float(np.abs(predictions[0] - self.actual).mean())}
        def stacked(self, members):
            return members[0]

    def run(work, ensembles=(), **changed):
        said, begun = [], time.monotonic()
        given = {"timeout": 60.0, "trial_timeout": 60.0, "trials": 1000, "concurrent": 1, "cores": None,
                 "early_termination": False, "exit_score": None} | changed
        found = Search(metric="mean_absolute_error", work=work, folder=Path(tempfile.mkdtemp()),
                       budget=Budget(deadline=begun + given["timeout"], **given), ensembles=list(ensembles),
                       ended=lambda trial: None, say=said.append)
        try:
            best = found.run()
        except SearchError as error:
            return {"error": str(error), "seconds": time.monotonic() - begun}
        return {"trials": len(found.trials), "best": best.number, "algorithm": best.algorithm, "said": said,
                "score": best.metrics["mean_absolute_error"], "seconds": time.monotonic() - begun,
                "errors": [trial.error for trial in found.trials], "weights": best.weights,
                "order": [trial.algorithm for trial in found.trials]}

    both = Work(Over={"off": 1.0}, Under={"off": -0.5})
    print(json.dumps({
        "exit": run(Work(A={"better": 0.1}), exit_score=0.65),
        "early": run(Work(A={}), early_termination=True),
        "trials": run(Work(A={}, B={"off": 0.5}), trials=5),
        "late": run(Work(A={"first": 30, "wait": 0.01}), trial_timeout=0.5, trials=3),
        "too_small": run(Work(A={"wait": 30}), trial_timeout=0.3, trials=2),
        "timeout": run(Work(A={"wait": 0.3}), timeout=4.0, concurrent=2),
        "vote": run(both, ["VotingEnsemble", "StackEnsemble"], trials=4),
    }))
"""


@pytest.fixture(scope="module")
def told(compute: Any) -> dict[str, Any]:
    found: dict[str, Any] = compute.answer(SEARCH)
    return found


def test_a_search_ends_when_it_is_good_enough(told: dict[str, Any]) -> None:
    assert told["exit"]["trials"] == 5
    assert told["exit"]["score"] == pytest.approx(0.6)
    assert "exit score 0.65 is reached" in told["exit"]["said"]
    # Not before 20 trials, then after 10 without an improvement.
    assert told["early"]["trials"] == 30
    assert told["trials"]["trials"] == 5
    # Each algorithm once, then the best one.
    assert told["trials"]["order"][:3] == ["A", "B", "B"]


def test_time_outs_hold(told: dict[str, Any]) -> None:
    assert told["late"]["errors"][0].startswith("stopped after")
    assert told["late"]["errors"][1:] == [None, None]
    assert told["late"]["seconds"] < 10
    assert "The budget is too small for one trial: none of 2 ended within 0 s a trial" in told["too_small"]["error"]
    assert told["timeout"]["seconds"] < 4.0 * 1.1
    assert told["timeout"]["trials"] > 5


def test_ensembles_end_the_search(told: dict[str, Any]) -> None:
    found = told["vote"]
    assert found["order"] == ["Over", "Under", "VotingEnsemble", "StackEnsemble"]
    # One is 1 too high, the other a half too low: a third and two thirds.
    assert (found["algorithm"], found["score"]) == ("VotingEnsemble", pytest.approx(0, abs=1e-9))
    assert found["weights"] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
