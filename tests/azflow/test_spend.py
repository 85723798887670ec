"""What a job may cost: what its YAML declares, and what the limits make of it."""

from __future__ import annotations

from typing import Any

import pytest

from azflow.spend import Declared, SpendLimits, allow, declared, measured

COMMAND = {"type": "command", "limits": {"timeout": 1800}, "resources": {"instance_count": 2}}
TRIAL = {"command": "python train.py"}
HOUR = 3600.0


@pytest.mark.parametrize(
    ("content", "nodes", "seconds"),
    [
        (COMMAND, 2, 3600),
        ({"command": "echo"}, 1, None),
        ({"type": "command", "limits": {"timeout": 60}}, 1, 60),
        # All nodes for the whole time, or each trial for its own: whichever is less.
        ({"type": "sweep", "trial": TRIAL, "limits": {"timeout": 600, "max_concurrent_trials": 4}}, 4, 2400),
        (
            {
                "type": "sweep",
                "limits": {"timeout": 7200, "trial_timeout": 60, "max_total_trials": 10, "max_concurrent_trials": 5},
            },
            5,
            600,
        ),
        ({"type": "sweep", "limits": {"max_total_trials": 8}}, 8, None),
        ({"type": "automl", "limits": {"timeout_minutes": 4, "max_concurrent_trials": 2}}, 2, 480),
        ({"type": "automl", "limits": {"timeout_minutes": 60, "trial_timeout_minutes": 1, "max_trials": 8}}, 1, 480),
        ({"type": "automl", "limits": {"max_trials": 8}}, 1, None),
        ({"type": "pipeline", "jobs": {"a": COMMAND, "b": {**COMMAND, "resources": {}}}}, 3, 5400),
        ({"type": "pipeline", "jobs": {"a": COMMAND, "b": {"component": "azureml:c:1"}}}, 3, None),
        ({"type": "spark", "conf": {"spark.executor.instances": 3}}, 4, None),
        ({"type": "spark", "executor_instances": 2}, 3, None),
    ],
)
def test_what_a_yaml_declares(content: dict[str, Any], nodes: int, seconds: float | None) -> None:
    found = declared(content)
    assert (found.nodes, found.seconds) == (nodes, seconds)


def test_a_job_that_declares_more_than_a_job_may_have_is_refused() -> None:
    refused = allow(declared(COMMAND), SpendLimits(max_node_hours_per_job=0.5), 0).refused
    assert "allows it 1 node hours (limits.timeout x 2)" in refused and "max_node_hours_per_job" in refused


def test_a_job_without_limits_gets_the_models() -> None:
    found = allow(Declared(4, None), SpendLimits(max_node_hours_per_job=2), 0)
    assert (found.refused, found.seconds, found.reason) == ("", 1800, "spend.max_node_hours_per_job")


@pytest.mark.parametrize(
    ("declares", "spent", "seconds", "refused"),
    [
        (600.0, 0.0, None, False),
        (600.0, 0.9 * HOUR, 180.0, False),
        (None, 0.5 * HOUR, 900.0, False),
        (600.0, HOUR, None, True),
    ],
)
def test_a_night_gives_what_it_has_left(
    declares: float | None, spent: float, seconds: float | None, refused: bool
) -> None:
    found = allow(Declared(2, declares), SpendLimits(max_node_hours_per_night=1), spent)
    assert bool(found.refused) is refused
    assert found.seconds == (None if seconds is None else pytest.approx(seconds))


def test_without_limits_everything_goes() -> None:
    limits = SpendLimits.of(None)
    assert not limits and not allow(Declared(100, None), limits, 1e9).refused and measured(1e9, limits, 1e9) == []


def test_what_was_taken_against_the_limits() -> None:
    limits = SpendLimits.of({"max_node_hours_per_job": 1, "max_node_hours_per_night": 2.5})
    assert measured(HOUR, limits, 2 * HOUR) == []
    assert measured(1.5 * HOUR, limits, 3 * HOUR) == [
        "1.5 node hours taken, spend.max_node_hours_per_job is 1",
        "3 node hours taken, spend.max_node_hours_per_night is 2.5",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_hours": 1}, "no key max_hours"),
        ({"max_node_hours_per_job": 0}, "positive"),
        ({"max_node_hours_per_night": "much"}, "positive"),
        ({"max_node_hours_per_night": True}, "positive"),
    ],
)
def test_wrong_limits_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SpendLimits.of(given)
