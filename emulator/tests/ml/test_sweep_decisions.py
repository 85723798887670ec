"""Sweeps' pure parts: search spaces, samplers that need no other process, early termination."""

from __future__ import annotations

import asyncio
import math
import random
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from localazure.core.errors import BadRequest
from localazure.executors import early_termination, search_space
from localazure.executors.early_termination import Reports
from localazure.executors.job import JobFailed
from localazure.executors.samplers import GridSampler, ProcessSampler, RandomSampler, Sampler

NESTED = [
    "choice",
    [[{"kind": "tree", "depth": ["randint", [3]]}, {"kind": "net", "rate": ["uniform", [1, 2]]}, "none"]],
]


def drawn(sampler: Sampler, most: int = 1000) -> list[dict[str, Any]]:
    async def draw() -> list[dict[str, Any]]:
        found = []
        while len(found) < most and (values := await sampler.draw(len(found))) is not None:
            found.append(values)
        return found

    return asyncio.run(draw())


@pytest.mark.parametrize(
    ("expression", "low", "middle", "high"),
    [
        (["choice", [["a", "b", "c"]]], "a", "b", "c"),
        (["randint", [5]], 0, 2, 4),
        (["uniform", [-1, 1]], -1, 0, 1),
        (["quniform", [1, 10, 3]], 0, 6, 9),
        (["quniform", [0, 1, 0.25]], 0, 0.5, 1),
        (["loguniform", [-2, 0]], math.exp(-2), math.exp(-1), 1),
        (["qloguniform", [0, 3, 2]], 0, 4, 20),
        (["normal", [10, 3]], None, 10, None),
        (["qnormal", [10, 3, 4]], None, 8, None),
        (["lognormal", [1, 1]], None, math.e, None),
        (["qlognormal", [2, 0, 5]], 5, 5, 5),
    ],
)
def test_every_distribution_at_its_ends_and_its_middle(expression: Any, low: Any, middle: Any, high: Any) -> None:
    space = search_space.parse({"x": expression})
    for point, wanted in ((0.0, low), (0.5, middle), (1 - 1e-9, high)):
        if wanted is not None:
            value = space.at([point])["x"]
            assert value == (pytest.approx(wanted, rel=1e-6) if isinstance(wanted, float) else wanted) or (
                value == pytest.approx(wanted, abs=1e-6)
            )
    if expression[0].startswith("q") and float(expression[1][-1]).is_integer():
        assert isinstance(space.at([0.5])["x"], int)  # a script may parse it as a whole number


def test_the_log_base_and_objects_of_a_choice() -> None:
    assert search_space.parse({"x": ["loguniform", [-2, 0]]}, base=10.0).at([0.5])["x"] == pytest.approx(0.1)
    space = search_space.parse({"model": NESTED, "y": ["uniform", [0, 1]]})
    assert space.dimensions == 4
    assert space.at([0.0, 0.99, 0.5, 0.25]) == {"model": {"kind": "tree", "depth": 2}, "y": 0.25}
    assert space.at([0.5, 0.99, 0.5, 0.25])["model"] == {"kind": "net", "rate": 1.5}
    assert space.at([0.9, 0.99, 0.5, 0.25])["model"] == "none"
    assert space.size() is None
    assert search_space.text({"kind": "tree", "depth": 2}) == '{"kind": "tree", "depth": 2}'
    assert (search_space.text(True), search_space.text(0.5)) == ("True", "0.5")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "at least one hyperparameter"),
        ({"x": {"type": "choice"}}, "'x'.*a list of a type and its parameters"),
        ({"x": ["gaussian", [1]]}, "'gaussian' is unknown; there are choice, randint, uniform"),
        ({"x": ["choice", [[]]]}, "at least one entry"),
        ({"x": ["uniform", [2, 1]]}, r"min_value \(2\) is above max_value \(1\)"),
        ({"x": ["uniform", [2]]}, "needs the numbers min_value, max_value"),
        ({"x": ["randint", [0]]}, "upper must be a whole number above 0"),
        ({"x": ["normal", [0, -1]]}, "sigma must not be negative"),
        ({"x": ["quniform", [0, 1, 0]]}, "q must be above 0"),
    ],
)
def test_a_wrong_search_space_is_refused_by_name(space: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        search_space.parse(space)


def test_grid_tries_everything_once_and_takes_choices_only() -> None:
    space = search_space.parse({"batch": ["choice", [[16, 32]]], "layers": ["choice", [[1, 2, 3]]]})
    space.require_grid()
    found = drawn(GridSampler(space))
    assert (len(found), found[0], found[-1]) == (6, {"batch": 16, "layers": 1}, {"batch": 32, "layers": 3})
    with pytest.raises(
        BadRequest, match=r"Grid sampling can only be used with choice hyperparameters; .* 'r' is uniform"
    ):
        search_space.parse({"r": ["uniform", [0, 1]]}).require_grid()
    with pytest.raises(BadRequest, match="Bayesian sampling supports choice, uniform, and quniform"):
        search_space.parse({"r": ["normal", [0, 1]]}).require_bayesian()


def test_random_follows_its_seed_and_a_small_space_is_tried_once() -> None:
    space = search_space.parse({"x": ["uniform", [0, 1]], "c": ["choice", [["a", "b"]]]})
    one, two, other = (drawn(RandomSampler(space, seed), 200) for seed in (7, 7, 8))
    assert one == two != other
    assert fmean(each["x"] for each in one) == pytest.approx(0.5, abs=0.08)
    small = search_space.parse({"c": ["choice", [["a", "b"]]], "n": ["randint", [2]]})
    found = drawn(RandomSampler(small, 1))
    assert len(found) == 4 == len({(each["c"], each["n"]) for each in found})


def test_a_sampler_in_another_process_skips_repeats_and_its_end_is_explained(tmp_path: Path) -> None:
    module = tmp_path / "localazure_compute"
    module.mkdir()
    (module / "__init__.py").touch()
    points = (
        "import json, sys\ninput()\n"
        "for point in (0.1, 0.2, 0.9):\n    input()\n    print(json.dumps({'point': [point]}), flush=True)\n"
        "sys.exit('no more ideas')\n"
    )
    (module / "sweep.py").write_text(points)

    async def test() -> None:
        space = search_space.parse({"c": ["choice", [["a", "b", "c"]]]})
        environment = {"PYTHONPATH": str(tmp_path)}
        log = tmp_path / "log"
        sampler = ProcessSampler(
            space, {"sampler": "sobol"}, python=Path(sys.executable), environment=environment, log=log
        )
        assert [await sampler.draw(0), await sampler.draw(1)] == [{"c": "a"}, {"c": "c"}]
        with pytest.raises(JobFailed, match=r"The sampler \(sobol\) gave up:\nno more ideas"):
            await sampler.draw(2)
        await sampler.close()

    asyncio.run(test())


def verdict(policy: dict[str, Any], own: list[float], *others: list[float], goal: str = "maximize", at: int = 0) -> Any:
    parsed = early_termination.parse(policy, goal == "maximize")
    assert parsed is not None
    return parsed.verdict(at or len(own), Reports(tuple(own)), [Reports(tuple(each)) for each in others])


def test_bandit_as_documented() -> None:
    # "best ... 0.8 ... slack_factor of 0.2, any training jobs whose best metric ... is less than 0.66 ... terminated"
    factor = {"policyType": "Bandit", "slackFactor": 0.2}
    assert verdict(factor, [0.5, 0.66], [0.7, 0.8], at=2) is not None
    assert verdict(factor, [0.5, 0.67], [0.7, 0.8], at=2) is None
    assert verdict(factor, [0.7, 0.1], [0.1, 0.8], at=2) is None  # its best value counts, not its last
    assert verdict({"policyType": "Bandit", "slackAmount": 0.2}, [0.59], [0.8]) is not None
    assert verdict({"policyType": "Bandit", "slackAmount": 0.2}, [0.61], [0.8]) is None
    assert verdict(factor, [1.21], [1.0], goal="minimize") is not None
    assert verdict(factor, [1.19], [1.0], goal="minimize") is None
    assert verdict(factor, [-0.5]) is None  # alone
    assert verdict(factor, [-0.5], [-0.5]) is None  # the best one always stays
    assert verdict(factor, [0.1], [0.9], [0.95, 0.99], at=1) is not None
    assert verdict(factor, [0.5, 0.5], [0.9], at=2) is None  # nobody else has got so far


def test_median_stopping_as_documented() -> None:
    policy = {"policyType": "MedianStopping"}
    # Running averages 0.5, 0.3, 0.1: their median is 0.3.
    assert verdict(policy, [0.1, 0.1], [0.4, 0.6], [0.2, 0.4]) is not None
    assert verdict(policy, [0.1, 0.31], [0.4, 0.6], [0.2, 0.4]) is None
    assert verdict(policy, [0.9], [0.4], [0.2], goal="minimize") is not None


def test_truncation_ends_the_lowest_and_never_equals() -> None:
    policy = {"policyType": "TruncationSelection", "truncationPercentage": 20}
    others = [[0.5], [0.6], [0.7], [0.8]]
    assert verdict(policy, [0.1], *others) is not None
    assert verdict(policy, [0.55], *others) is None
    assert verdict(policy, [0.1], *others[:3]) is None  # a fifth of four is none
    assert verdict(policy, [0.5], *[[0.5]] * 9) is None
    parsed = early_termination.parse({**policy, "truncationPercentage": 50, "excludeFinishedJobs": True}, True)
    assert parsed is not None
    assert parsed.verdict(1, Reports((0.1,)), [Reports((0.9,), finished=True)]) is None


def test_intervals_and_wrong_policies() -> None:
    parsed = early_termination.parse(
        {"policyType": "MedianStopping", "evaluationInterval": 2, "delayEvaluation": 5}, True
    )
    assert parsed is not None
    assert [interval for interval in range(1, 11) if parsed.applies(interval)] == [6, 8, 10]
    unset = early_termination.parse({"policyType": "MedianStopping", "evaluationInterval": 0}, True)
    assert unset is not None
    assert unset.applies(1)
    for wrong, message in (
        ({"policyType": "Hope"}, "must be one of Bandit"),
        ({"policyType": "TruncationSelection", "truncationPercentage": 100}, "between 1 and 99"),
        ({"policyType": "Bandit", "slackFactor": 0.1, "slackAmount": 1}, "not both"),
        ({"policyType": "MedianStopping", "delayEvaluation": -1}, "must not be negative"),
    ):
        with pytest.raises(BadRequest, match=message):
            early_termination.parse(wrong, True)


def test_random_points_are_spread_over_every_distribution() -> None:
    generator = random.Random(3)
    space = search_space.parse({"n": ["normal", [10, 3]], "l": ["lognormal", [0, 0.1]]})
    values = [space.at([generator.random(), generator.random()]) for _ in range(2000)]
    assert fmean(each["n"] for each in values) == pytest.approx(10, abs=0.3)
    assert fmean(each["l"] for each in values) == pytest.approx(math.exp(0.005), abs=0.02)
