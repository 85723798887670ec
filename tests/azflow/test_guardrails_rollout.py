"""The roll-out's decisions, as values."""

from __future__ import annotations

import itertools

import pytest

from azflow.guardrails import RolloutRules, Sample, judge_stage, next_traffic, percentile, stages_left

RULES = RolloutRules(max_error_rate=0.05, max_p95_ms=100, min_agreement=0.8, min_requests=10)


def good(count: int, ms: float = 10, compared: int = 0, agreed: int = 0) -> list[Sample]:
    return [Sample("new", True, ms, "", 1, compared, agreed)] * count


def bad(count: int, who: str = "new") -> list[Sample]:
    return [Sample(who, True, 5, "HTTP 502")] * count


@pytest.mark.parametrize(
    ("samples", "window_over", "decision", "said"),
    [
        (good(20), True, "advance", "20 requests, 0 failed"),
        (good(20), False, "hold", "isn't over"),
        (good(9), True, "hold", "only 9 requests"),
        ([], True, "hold", "only 0 requests"),
        # One error in twenty is as many as allowed; two are too many.
        (good(19) + bad(1), True, "advance", "1 failed"),
        (good(18) + bad(2), True, "roll_back", "2 of 20 requests to new failed (10.0%; max_error_rate is 5.0%)"),
        # Before the end two errors may be bad luck, three are not.
        (good(1) + bad(2), False, "hold", ""),
        (good(1) + bad(3), False, "roll_back", "3 of 4"),
        (good(97) + bad(3), False, "hold", ""),
        # Too few requests, but bad ones.
        (bad(3), True, "roll_back", "3 of 3"),
        # Others' errors aren't the new deployment's; those that nobody signed are.
        (good(20) + bad(5, "old"), True, "advance", ""),
        (good(20) + bad(5, ""), True, "roll_back", "5 of 25"),
        # Latency and agreement are judged at the end.
        (good(20, ms=200), True, "roll_back", "took up to 200 ms (max_p95_ms is 100)"),
        (good(20, ms=200), False, "hold", ""),
        (good(19) + good(1, ms=500), True, "advance", ""),
        (good(20, compared=10, agreed=8), True, "advance", ""),
        (good(20, compared=10, agreed=7), True, "roll_back", "on 70.0% of 200 rows (min_agreement is 80.0%)"),
        (good(20, compared=10, agreed=0), False, "hold", ""),
    ],
)
def test_judge_stage(samples: list[Sample], window_over: bool, decision: str, said: str) -> None:
    judged = judge_stage(samples, "new", RULES, window_over=window_over)
    assert judged.decision == decision
    assert said in "; ".join(judged.reasons)


def test_a_judgement_is_evidence() -> None:
    split = [Sample("old", False, 1.0)] * 9 + [Sample("new", False, 1.0)]
    judged = judge_stage(good(10, compared=2, agreed=2) + split, "new", RULES, window_over=True).as_dict()
    assert judged["share"] == 0.1
    assert judged["agreement"] == 1.0
    assert judged["requests"] == 11
    assert judged["reasons"] == ["11 requests, 0 failed, p95 10 ms"]


@pytest.mark.parametrize(
    ("current", "percent", "expected"),
    [
        ({"old": 100}, 10, {"old": 90, "new": 10}),
        ({"old": 90, "new": 10}, 50, {"old": 50, "new": 50}),
        ({"old": 50, "new": 50}, 100, {"old": 0, "new": 100}),
        ({"old": 50, "new": 50}, 0, {"old": 100, "new": 0}),
        ({"a": 67, "b": 33}, 10, {"a": 60, "b": 30, "new": 10}),
        ({"a": 1, "b": 1, "c": 98}, 50, {"a": 1, "b": 0, "c": 49, "new": 50}),
        # Idle ones stay idle.
        ({"old": 100, "older": 0}, 10, {"older": 0, "old": 90, "new": 10}),
        # Nobody else to give the rest to.
        ({}, 10, {"new": 100}),
        ({"old": 0}, 10, {"old": 0, "new": 100}),
        ({"new": 100}, 10, {"new": 100}),
    ],
)
def test_next_traffic(current: dict[str, int], percent: int, expected: dict[str, int]) -> None:
    assert next_traffic(current, "new", percent) == expected


def test_traffic_always_sums_to_100_and_never_grows_for_others() -> None:
    for first, second, percent in itertools.product(range(0, 101, 7), range(0, 101, 11), range(0, 101, 3)):
        if first + second > 100 or not first:
            continue
        current = {"a": first, "b": second, "c": 100 - first - second}
        found = next_traffic(current, "new", percent)
        assert sum(found.values()) == 100
        assert found["new"] == percent
        assert all(0 <= found[name] <= current[name] for name in current)


def test_stages_left() -> None:
    assert stages_left((10, 50, 100), 0) == (10, 50, 100)
    assert stages_left((10, 50, 100), 10) == (50, 100)
    assert stages_left((10, 50, 100), 30) == (50, 100)
    assert stages_left((10, 50, 100), 100) == ()


def test_percentile() -> None:
    assert percentile([5], 0.95) == 5
    assert percentile(list(range(1, 101)), 0.95) == 95
    assert percentile([3, 1, 2], 0.5) == 2
