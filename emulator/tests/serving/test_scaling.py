"""Autoscaling by utilisation, as a value."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.core.errors import BadRequest
from localazure.serving import scaling
from localazure.serving.scaling import Autoscaler, Scale

SETTINGS = {"scaleType": "TargetUtilization", "minInstances": 1, "maxInstances": 5, "targetUtilizationPercentage": 50}


def scale(**changed: Any) -> Scale:
    found = Scale.parse(scaling.checked(SETTINGS | changed, True, 8))
    assert found is not None
    return found


def play(scaler: Autoscaler, *load: tuple[float, int], instances: int = 1, at_once: int = 1) -> list[int]:
    """The numbers of instances over time, under `(for how many seconds, open requests)`; looked at twice a second."""
    now, seen = 0.0, []
    for duration, open_requests in load:
        for _ in range(int(duration * 2)):
            instances = scaler.decide(now, open_requests, instances, at_once)
            seen.append(instances)
            now += 0.5
    return seen


def test_load_brings_instances_within_a_second_or_two() -> None:
    seen = play(Autoscaler(scale()), (3, 0), (3, 2))
    assert seen[:6] == [1] * 6
    # Two requests at 50 % are four instances' work.
    assert seen[8:] == [4] * 4
    assert play(Autoscaler(scale()), (3, 100))[-1] == 5
    assert play(Autoscaler(scale()), (3, 2), at_once=4)[-1] == 1


def test_a_burst_brings_none() -> None:
    assert set(play(Autoscaler(scale()), (2, 0), (0.5, 9), (2, 0), (0.5, 9), (2, 0))) == {1}


def test_instances_go_after_a_minute_without_need() -> None:
    seen = play(Autoscaler(scale()), (3, 2), (50, 0), (1, 1), (70, 0))
    assert seen[105] == 4
    # One request within the minute kept two.
    assert seen[-30] == 2
    assert seen[-1] == 1


def test_bounds_hold_at_once() -> None:
    assert play(Autoscaler(scale(minInstances=2)), (0.5, 0))[0] == 2
    assert play(Autoscaler(scale(maxInstances=3)), (0.5, 9), instances=5)[0] == 3


def test_an_interval_is_kept() -> None:
    seen = play(Autoscaler(scale(pollingInterval="PT10S")), (3, 0), (12, 2))
    assert seen.index(4) >= 20


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"minInstances": 0}, "minInstances must be a whole number from 1 to 8 here, not 0"),
        ({"minInstances": 6}, "above maxInstances"),
        ({"maxInstances": "5"}, "maxInstances must be"),
        ({"targetUtilizationPercentage": 101}, "from 1 to 100"),
        ({"pollingInterval": "10"}, "ISO 8601"),
        ({"pollingInterval": "PT0.5S"}, "a second or more"),
        ({"scaleType": "Magic"}, "Default or TargetUtilization"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], wanted: str) -> None:
    with pytest.raises(BadRequest, match=wanted):
        scaling.checked(SETTINGS | changed, True, 8)


def test_managed_deployments_are_scaled_by_azure_monitor() -> None:
    with pytest.raises(BadRequest, match="autoscale settings"):
        scaling.checked(SETTINGS, False, 8)
    assert scaling.checked(None, False, 8) == scaling.checked({"scaleType": "Default"}, False, 8)
    assert Scale.parse({"scaleType": "Default"}) is None
    defaults = scaling.checked({"scaleType": "TargetUtilization"}, True, 8)
    assert (defaults["targetUtilizationPercentage"], defaults["pollingInterval"]) == (70, "PT1S")
