"""A roll-out: traffic for a new deployment, stage by stage, and back at the first breach. No Airflow.

First the deployment is asked by name, with real rows and then with what the champion was asked lately (its shadow),
still without traffic. Then, for each stage: the traffic is read, the new map (which sums to 100) written whole, and for
a window requests are sent: to the new deployment by name, to the champion by name with the same rows, and to whom the
split picks. `azflow.guardrails.judge_stage` decides, by them and by what the endpoint counted itself.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from azflow import canary
from azflow.connection import AzureConnection
from azflow.endpoint_metrics import observe
from azflow.errors import ConfigurationError, RolloutFailed, first_line
from azflow.guardrails import (
    RolloutRules,
    Sample,
    StageJudgement,
    judge_stage,
    next_traffic,
    stages_left,
    with_observed,
)
from azflow.online_endpoint import OnlineEndpoint, traffic_of
from azflow.shadow import CapturedRequest, replay

#: Tag of a deployment: the name under which a task's try looks for it. What has it is azflow's own.
ATTEMPT_TAG = "azflow.name"

_ROWS_A_REQUEST = 20
_PROBE_REQUESTS = 5
_RESTORE_ATTEMPTS = 4
_PAUSE_SECONDS = 0.05
_LOG_LINES = 40
#: An answer is waited for so many times as long as 95 % of them may take, and at least so many seconds.
_PATIENCE, _LEAST_SECONDS = 4, 5.0
_ALL = 100


@dataclass
class Rollout:
    """One roll-out: the steps of `RolloutOperator`, without Airflow.

    :param stopping: asked before every request; true ends the roll-out as a breach does.
    :param captured: what the deployment it is given the name of answered lately; None: no shadow is asked for.
    """

    endpoint: OnlineEndpoint
    scorer: canary.Scorer
    rows: list[canary.Row]
    deployment: str
    rules: RolloutRules
    window_seconds: float
    log: Any
    stopping: Callable[[], bool] = lambda: False
    captured: Callable[[str], list[CapturedRequest]] | None = None
    champion: str | None = None
    passed: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    last_lines: list[str] = field(default_factory=list)
    problem: str = ""
    _traffic: dict[str, int] = field(default_factory=dict)
    _restore: dict[str, int] = field(default_factory=dict)
    _scoring_uri: str = ""
    _touched: bool = False
    _served_since: datetime | None = None
    _has_metrics: bool = True

    def run(self, stages: Sequence[int]) -> None:
        """Through all stages.

        :raises RolloutFailed: a breach; the traffic from before is restored, or the message says that it isn't.
        """
        document = self.endpoint.document()
        self._scoring_uri = document["properties"]["scoringUri"]
        self._traffic = traffic_of(document)
        self.champion = champion_of(self._traffic, self.deployment)
        share = self._traffic.get(self.deployment, 0)
        # What a breach goes back to: without the new deployment, even if an earlier try had given it some.
        self._restore = _without(self._traffic, self.deployment) if self.champion else dict(self._traffic)
        left = stages_left(stages, share)
        if not left:
            self.log.info("%s has all of the traffic already.", self.deployment)
            return
        self.log.info(
            "Endpoint %s: traffic %s; champion: %s.",
            self.endpoint.name,
            shares_text(self._traffic),
            self.champion or "none",
        )
        if share:
            self.log.info("An earlier try gave %s %d %%; going on.", self.deployment, share)
        try:
            self._probe()
            if self.captured is not None and self.champion and not share:
                self._shadow(self.captured(self.champion))
            # Without a champion nobody else can take the rest: all of it at once, after the probe.
            for percent in left if self.champion else left[-1:]:
                self._stage(percent)
        except BaseException as error:
            raise self._roll_back(error) from error

    def evidence(self) -> dict[str, Any]:
        """What was done and seen, as plain values."""
        return {
            "endpoint": self.endpoint.name,
            "deployment": self.deployment,
            "champion": self.champion,
            "traffic": dict(self._traffic),
            "scoring_uri": self._scoring_uri,
            "url": self.endpoint.studio_url,
            "stages": list(self.passed),
            "deleted": list(self.deleted),
            "problem": self.problem,
            "log": list(self.last_lines),
        }

    def delete_older(self) -> None:
        """Delete azflow's deployments that are older than the new one, except for the one that served before it.

        A try that found nothing left to do comes after one that died here: who served before is then the newest of the
        older ones that the traffic map still names. Where it names none, nothing is deleted.
        """
        found = self.endpoint.deployments()
        born = {name: str((each.get("systemData") or {}).get("createdAt", "")) for name, each in found.items()}
        before = self.champion
        if not self.passed:
            named = [name for name in self._traffic if name in found and born[name] < born.get(self.deployment, "")]
            before = max(named, key=lambda name: born[name], default=None)
            if before is None:
                return
        for name, resource in found.items():
            mine = ATTEMPT_TAG in (resource.get("tags") or {})
            older = born[name] < born.get(self.deployment, "")
            if not mine or not older or name == before or self._traffic.get(name):
                continue
            try:
                self.endpoint.delete_deployment(name)
            except Exception as error:
                # The roll-out itself is done; the next one deletes it.
                self.log.warning("Deployment %s can't be deleted: %s", name, first_line(error))
                continue
            self.deleted.append(name)
            self.log.info("Deployment %s is deleted.", name)

    def _probe(self) -> None:
        begun = time.monotonic()
        samples = probe(self.scorer, self.deployment, self.rows)
        judgement = judge_stage(samples, self.deployment, self._rules_for(len(samples)), window_over=True)
        self._note("probe", 0, judgement, begun)
        if judgement.decision != "advance":
            raise _Breach(0, judgement)

    def _shadow(self, captured: Sequence[CapturedRequest]) -> None:
        """What the champion was asked lately, asked of the new deployment; its answers beside the champion's."""
        if not captured:
            self.log.info(
                "No shadow: nothing that %s was asked lately was captured (data_collector in deployment.yml).",
                self.champion,
            )
            return
        begun = time.monotonic()
        samples: list[Sample] = []
        for request in captured:
            if self.stopping():
                raise _Stopped
            samples.append(replay(self.scorer, self.deployment, request))
            if judge_stage(samples, self.deployment, self.rules, window_over=False).decision == "roll_back":
                break
        rules = replace(self.rules, min_requests=min(self.rules.min_requests, len(samples)))
        judgement = judge_stage(samples, self.deployment, rules, window_over=True)
        self.log.info(
            "Shadow: %d requests that %s answered from %s to %s, %d rows.",
            len(samples),
            self.champion,
            captured[0].time,
            captured[-1].time,
            sum(sample.rows for sample in samples),
        )
        self._note("shadow", 0, judgement, begun)
        if judgement.decision != "advance":
            raise _Breach(0, judgement, "asked what the champion was asked")

    def _stage(self, percent: int) -> None:
        begun = time.monotonic()
        found = self.endpoint.traffic()
        if _positive(found) != _positive(self._traffic):
            raise _TrafficChanged(self._traffic, found)
        wanted = next_traffic(found, self.deployment, percent)
        # From here on it may have been written, even if the answer gets lost.
        self._touched = True
        self._served_since = self._served_since or datetime.now(UTC)
        self.endpoint.write_traffic(wanted)
        self._traffic = wanted
        self.log.info("Traffic: %s.", shares_text(wanted))
        judgement = self._observed(self._watch(percent))
        self._note(f"{percent} %", percent, judgement, begun)
        if judgement.decision != "advance":
            raise _Breach(percent, judgement)

    def _watch(self, percent: int) -> StageJudgement:
        """Send requests until the window is over, or until something is too bad to go on."""
        samples: list[Sample] = []
        begun = time.monotonic()
        for rows in canary.batches(self.rows, _ROWS_A_REQUEST):
            if self.stopping():
                raise _Stopped
            samples += self._round(rows)
            elapsed = time.monotonic() - begun
            judgement = judge_stage(samples, self.deployment, self.rules, window_over=elapsed >= self.window_seconds)
            if judgement.decision != "hold" or elapsed >= 2 * self.window_seconds:
                return judgement
            time.sleep(_PAUSE_SECONDS)
        raise AssertionError("unreachable: batches never end")

    def _observed(self, judgement: StageJudgement) -> StageJudgement:
        """The judgement, after the endpoint's own metrics were asked; they have a say, not the last word."""
        if judgement.decision != "advance" or not self._has_metrics or self._served_since is None:
            return judgement
        try:
            # From the first traffic on: what comes late is heard at the next stage.
            observed = observe(self.endpoint, self.deployment, self._served_since, datetime.now(UTC))
        except Exception as error:
            self._has_metrics = False
            self.log.info("The endpoint's own metrics can't be read, our requests decide: %s", first_line(error))
            return judgement
        if observed is None:
            self.log.info("The endpoint's own metrics tell nothing of %s yet, our requests decide.", self.deployment)
            return judgement
        return with_observed(judgement, observed, self.deployment, self.rules)

    def _round(self, rows: list[canary.Row]) -> list[Sample]:
        """The same rows to the new deployment, to the champion, and to whom the split picks."""
        ours = self.scorer.score(rows, self.deployment)
        compared = agreed = 0
        samples = []
        if self.champion:
            theirs = self.scorer.score(rows, self.champion)
            samples.append(Sample(theirs.deployment, True, theirs.milliseconds, theirs.problem, len(rows)))
            if not ours.problem and not theirs.problem:
                compared, agreed = canary.agreement(ours.predictions, theirs.predictions)
        samples.append(Sample(ours.deployment, True, ours.milliseconds, ours.problem, len(rows), compared, agreed))
        split = self.scorer.score(rows)
        samples.append(Sample(split.deployment, False, split.milliseconds, split.problem, len(rows)))
        return samples

    def _note(self, name: str, percent: int, judgement: StageJudgement, begun: float) -> None:
        about = {"name": name, "percent": percent, "traffic": dict(self._traffic)}
        self.passed.append({**about, "seconds": round(time.monotonic() - begun, 1), **judgement.as_dict()})
        self.log.info("%s: %s (%s).", name.capitalize(), judgement.decision, "; ".join(judgement.reasons))

    def _rules_for(self, requests: int) -> RolloutRules:
        return RolloutRules(
            self.rules.max_error_rate, self.rules.max_p95_ms, 0.0, min(self.rules.min_requests, requests)
        )

    def _roll_back(self, error: BaseException) -> RolloutFailed:
        """Restore the traffic from before, then look at the deployment's log; the error to raise."""
        self.problem = _reason(error)
        what = f"Roll-out of {self.deployment} on endpoint {self.endpoint.name}: {self.problem}"
        if isinstance(error, _TrafficChanged):
            return RolloutFailed(f"{what} It was left as it is. See {self.endpoint.studio_url}")
        problem = self._restore_traffic()
        kept = self._attach_log() if isinstance(error, _Breach) else ""
        now = (
            f"The traffic is {shares_text(self._traffic)} again."
            if not problem
            else (f"THE TRAFFIC COULD NOT BE RESTORED ({problem}): set it to {shares_text(self._restore)} by hand.")
        )
        return RolloutFailed(f"{what} {now}{kept} See {self.endpoint.studio_url}")

    def _attach_log(self) -> str:
        """The end of the deployment's log, for whoever looks into it; what to say of it."""
        try:
            self.last_lines = [line for line in self.endpoint.logs(self.deployment, _LOG_LINES) if line.strip()]
        except Exception as error:
            self.log.warning("The log of %s can't be read: %s", self.deployment, first_line(error))
        for line in self.last_lines:
            self.log.error("  %s", line)
        where = "; its last log lines are above" if self.last_lines else ""
        return f" {self.deployment} is kept for inspection{where}."

    def _restore_traffic(self) -> str:
        """One write; nothing to do if nothing was written. Why it failed, or an empty text."""
        if not self._touched and self._traffic == self._restore:
            return ""
        if sum(self._restore.values()) != _ALL:
            return "there was no traffic before; the deployment is left with all of it"
        problem = ""
        for attempt in range(_RESTORE_ATTEMPTS):
            try:
                self.endpoint.write_traffic(self._restore)
            except Exception as error:
                problem = first_line(error)
                self.log.error("Restoring the traffic failed (%s); trying again.", problem)
                time.sleep(2.0**attempt)
            else:
                self._traffic = dict(self._restore)
                self.log.warning("The traffic is %s again.", shares_text(self._traffic))
                return ""
        return problem


class _Breach(Exception):
    """A stage wasn't passed."""

    def __init__(self, percent: int, judgement: StageJudgement, how: str = "") -> None:
        where = f"at {percent} %" if percent else "before it got any traffic"
        where += f", {how}" if how else ""
        super().__init__(f"{where}, {'; '.join(judgement.reasons)}.")


class _TrafficChanged(Exception):
    """Somebody else wrote the traffic during the roll-out."""

    def __init__(self, ours: Mapping[str, int], found: Mapping[str, int]) -> None:
        super().__init__(f"somebody changed the traffic meanwhile, from {shares_text(ours)} to {shares_text(found)}.")


class _Stopped(Exception):
    """The task was asked to stop."""

    def __str__(self) -> str:
        return "the task was stopped."


def _positive(traffic: Mapping[str, int]) -> dict[str, int]:
    return {name: share for name, share in traffic.items() if share}


def shares_text(traffic: Mapping[str, int]) -> str:
    """Who has how much, for people."""
    return ", ".join(f"{name} {share} %" for name, share in traffic.items() if share) or "nobody 0 %"


def _reason(error: BaseException) -> str:
    if isinstance(error, _Breach | _TrafficChanged | _Stopped):
        return str(error)
    return f"{first_line(error)} ({type(error).__name__})."


def probe(scorer: canary.Scorer, deployment: str, rows: Sequence[canary.Row]) -> list[Sample]:
    """A few requests with real rows to `deployment`, by name. The first may find the server cold: not timed."""
    samples: list[Sample] = []
    source = canary.batches(rows, _ROWS_A_REQUEST)
    for number in range(_PROBE_REQUESTS + 1):
        batch = next(source)
        answer = scorer.score(batch, deployment)
        if number or answer.problem:
            samples.append(Sample(answer.deployment, True, answer.milliseconds, answer.problem, len(batch)))
    return samples


def champion_of(traffic: Mapping[str, int], deployment: str) -> str | None:
    """Who serves now: the deployment, other than `deployment`, with the most traffic."""
    others = {name: share for name, share in traffic.items() if name != deployment and share > 0}
    return max(others, key=lambda name: (others[name], name)) if others else None


def stages_of(value: Sequence[int] | str) -> tuple[int, ...]:
    """Stages from a parameter or a rendered template.

    :raises ConfigurationError: not growing whole percentages that end with 100.
    """
    try:
        listed = json.loads(value) if isinstance(value, str) else value
        stages = tuple(int(stage) for stage in listed)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"stages must be a list of percentages such as [10, 50, 100], not {value!r}."
        ) from None
    if not stages or list(stages) != sorted(set(stages)) or stages[0] < 1 or stages[-1] != _ALL:
        raise ConfigurationError(f"stages must grow from at least 1 to 100, not {list(stages)}.")
    return stages


def _without(traffic: Mapping[str, int], deployment: str) -> dict[str, int]:
    """The map with `deployment` at 0 and the others as they shared the rest."""
    restored = next_traffic(traffic, deployment, 0)
    # As it was, deployments without traffic are named only if they were.
    return {name: share for name, share in restored.items() if share or name in traffic}


@contextlib.contextmanager
def open_scorer(
    connection: AzureConnection, endpoint: OnlineEndpoint, max_p95_ms: float | None = None
) -> Iterator[canary.Scorer]:
    """A scorer of the endpoint. What takes several times as long as it may isn't waited for."""
    most = canary.ANSWER_SECONDS
    timeout = most if max_p95_ms is None else min(most, max(_LEAST_SECONDS, _PATIENCE * max_p95_ms / 1000))
    uri = str(endpoint.document()["properties"]["scoringUri"])
    scorer = canary.Scorer(uri, endpoint.key(), verify=connection.verify or True, timeout=timeout)
    try:
        yield scorer
    finally:
        scorer.close()
