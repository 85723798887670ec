"""How many instances a managed deployment should have by a profile of its autoscale setting. Pure.

https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-understanding-settings#autoscale-evaluation and
https://learn.microsoft.com/azure/azure-monitor/autoscale/autoscale-flapping
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localazure.serving.autoscale_settings import Profile, Rule


@dataclass(frozen=True)
class Decision:
    """How many instances there should be, and why. `cooldown` (seconds) is the one of the rule that scales, if any."""

    instances: int
    reason: str = ""
    cooldown: float | None = None


def decide(profile: Profile, readings: Sequence[float | None], instances: int, cooling: bool, most: int) -> Decision:
    """What to do, with `instances` there.

    `readings` are the values of the profile's rules, None for those without a metric. `cooling`: an earlier rule's
    cool-down isn't over, so no rule scales; bounds and the default hold all the same. There are never more than `most`.
    """
    lowest, highest = min(profile.minimum, most), min(profile.maximum, most)
    bounded = max(lowest, min(highest, instances))
    if bounded != instances:
        return Decision(bounded, f"profile '{profile.name}': {lowest} to {highest}")
    values = [
        (rule, value / instances if value is not None and rule.trigger.per_instance else value)
        for rule, value in zip(profile.rules, readings, strict=True)
    ]
    # Any rule that wants more is heard, the one that wants most decides.
    out = [rule for rule, value in values if rule.action.increase and _met(rule, value)]
    if out:
        rule = max(out, key=lambda each: (each.action.target(instances), each.action.cooldown))
        target = min(rule.action.target(instances), highest)
        if target == instances or cooling:
            return Decision(instances)
        return Decision(target, str(rule.trigger), rule.action.cooldown)
    missing = [rule.trigger.metric for rule, value in values if value is None]
    floor = min(max(profile.default, lowest), highest) if missing else lowest
    if instances < floor:
        return Decision(floor, f"no metric {', '.join(sorted(set(missing)))}: the default holds")
    ins = [rule for rule, _ in values if not rule.action.increase]
    if cooling or not ins or not all(_met(rule, value) for rule, value in values if not rule.action.increase):
        return Decision(instances)
    # All of them must want less, and the one that wants least less decides.
    rule = max(ins, key=lambda each: (each.action.target(instances), each.action.cooldown))
    target = max(rule.action.target(instances), floor)
    for count in range(target, instances):
        # What is spread over fewer instances mustn't bring them back.
        if not any(
            each.action.increase and value is not None and each.trigger.met(value * instances / count)
            for each, value in values
        ):
            return Decision(count, str(rule.trigger), rule.action.cooldown)
    return Decision(instances, "flapping: fewer instances would be scaled out again" if target < instances else "")


def _met(rule: Rule, value: float | None) -> bool:
    return value is not None and rule.trigger.met(value)
