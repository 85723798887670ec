"""A signal's metrics as the service writes them, and which of them break their threshold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

#: What is better when it is more; everything else breaks its threshold from above.
_MORE_IS_BETTER = frozenset(
    {"TwoSampleKolmogorovSmirnovTest", "PearsonsChiSquaredTest", "Accuracy", "Precision", "Recall"}
)
#: Of the files; the service's own components call it METADATA_VERSION.
_VERSION = "1.0.0"


@dataclass(frozen=True)
class Metric:
    """One row of a signal's metrics. `group` is the column it is of, empty for the whole."""

    group: str
    metric_name: str
    metric_value: float | None
    threshold_value: float | None

    @property
    def broken(self) -> bool:
        """Whether the value is on the wrong side of the threshold."""
        if self.metric_value is None or self.threshold_value is None:
            return False
        if self.metric_name in _MORE_IS_BETTER:
            return self.metric_value < self.threshold_value
        return self.metric_value > self.threshold_value


def document(name: str, kind: str, metrics: list[Metric]) -> dict[str, Any]:
    """The content of `signals/<signal>.json`: metric -> value and threshold, of the whole or group by group."""
    found: dict[str, Any] = {}
    for each in metrics:
        entry = {"value": each.metric_value}
        if each.threshold_value is not None:
            entry["threshold"] = each.threshold_value
        if each.group:
            found.setdefault(each.metric_name, {}).setdefault("groups", {})[each.group] = entry
        else:
            found.setdefault(each.metric_name, {}).update(entry)
    return {"signalName": name, "signalType": kind, "version": _VERSION, "metrics": found}


def warning(name: str, metrics: list[Metric]) -> str:
    """What is said of a signal that broke a threshold; empty if it didn't."""
    broken = [asdict(each) for each in metrics if each.broken]
    if not broken:
        return ""
    return (
        f"The signal '{name}' has failed due to one or more features violating metric thresholds.\n"
        "The feature names and their corresponding computed metric values violating the threshold are \n"
        f"{[json.dumps(each) for each in broken]}"
    )
