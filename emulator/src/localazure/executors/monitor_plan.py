"""What a monitor watches, as the plan of its computation; what isn't there is refused by name. Pure.

The wire is the api-version 2023-06-01-preview's, which azure-ai-ml writes: https://learn.microsoft.com/azure/
machine-learning/reference-yaml-monitor and .../how-to-monitor-model-performance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.durations import seconds

_DRIFT = {
    "Numerical": (
        "JensenShannonDistance", "NormalizedWassersteinDistance", "PopulationStabilityIndex",
        "TwoSampleKolmogorovSmirnovTest",
    ),
    "Categorical": ("JensenShannonDistance", "PearsonsChiSquaredTest", "PopulationStabilityIndex"),
}  # fmt: skip
_QUALITY = ("DataTypeErrorRate", "NullValueRate", "OutOfBoundsRate")
METRICS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "DataDrift": _DRIFT,
    "PredictionDrift": _DRIFT,
    "DataQuality": {"Numerical": _QUALITY, "Categorical": _QUALITY},
    "ModelPerformance": {
        "Classification": ("Accuracy", "Precision", "Recall"),
        "Regression": ("MeanAbsoluteError", "MeanSquaredError", "RootMeanSquaredError"),
    },
}
#: What the service has beside those, and localazure hasn't.
_REFUSED = (
    "FeatureAttributionDrift", "Custom", "GenerationSafetyQuality", "GenerationTokenStatistics", "ModelTokenStatistics",
)  # fmt: skip
# The SDK writes the thresholds of a performance signal here; `metricThreshold` has room for one.
_PERFORMANCE = "azureml.modelmonitor.model_performance_thresholds"
_RUNTIMES = ("3.3", "3.4", "3.5")
_INPUT_TYPES = ("Fixed", "Static", "Trailing", "Rolling")


def plan(definition: Mapping[str, Any], time: datetime) -> list[dict[str, Any]]:
    """The signals of a `monitorDefinition` that is due at `time`, each ``{"name", "type", "production": data,
    "reference": data, "features", "types", "thresholds": {kind: {metric: limit}}, "alert"}``; data is ``{"uri",
    "jobInputType", "from", "until", "columns", "context"}`` with ISO times, None for all rows.

    BadRequest, or NotImplementedOperation by name.
    """
    compute = definition.get("computeConfiguration") or {}
    if compute.get("computeType") != "ServerlessSpark":
        raise _bad("A monitor runs on serverless Spark", "computeConfiguration")
    if str(compute.get("runtimeVersion")) not in _RUNTIMES:
        version = compute.get("runtimeVersion")
        raise _bad(f"runtimeVersion must be one of {', '.join(_RUNTIMES)}, not '{version}'", "computeConfiguration")
    signals = definition.get("signals") or {}
    if not signals:
        raise _bad("A monitor needs at least one signal", "signals")
    return [_signal(name, signal or {}, time) for name, signal in signals.items()]


def inputs(definition: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The addresses that a monitor reads: (what it is in messages, uri)."""
    for name, signal in (definition.get("signals") or {}).items():
        for key in ("productionData", "referenceData"):
            data = signal.get(key)
            for each in data if isinstance(data, list) else [data]:
                yield f"signals.{name}.{key}", str((each or {}).get("uri") or "")


def _signal(name: str, signal: Mapping[str, Any], time: datetime) -> dict[str, Any]:
    kind = str(signal.get("signalType"))
    where = f"signals.{name}"
    if kind in _REFUSED:
        raise NotImplementedOperation(f"Schedules_CreateOrUpdate of a monitor with a signal of type {kind}")
    if kind not in METRICS:
        raise _bad(f"signalType must be one of {', '.join(METRICS)}, not '{kind}'", where)
    if signal.get("dataSegment"):
        raise NotImplementedOperation("Schedules_CreateOrUpdate of a monitor with a dataSegment")
    production = signal.get("productionData")
    if isinstance(production, list):
        if len(production) != 1:
            raise _bad(f"The signal '{name}' needs one production data", where)
        production = production[0]
    return {
        "name": name,
        "type": kind,
        "production": _data(production, f"{where}.productionData", time),
        "reference": _data(signal.get("referenceData"), f"{where}.referenceData", time),
        "features": _features(signal.get("features"), where),
        "types": _types(signal.get("featureDataTypeOverride") or {}, where),
        "thresholds": _thresholds(kind, signal, where),
        "alert": str(signal.get("mode") or "Enabled").lower() == "enabled",
    }


def _data(data: Any, where: str, time: datetime) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not data.get("uri"):
        raise _bad(f"{where} needs a uri", where)
    kind = data.get("inputDataType")
    if kind not in _INPUT_TYPES:
        raise _bad(f"inputDataType must be one of {', '.join(_INPUT_TYPES)}, not '{kind}'", where)
    if data.get("preprocessingComponentId"):
        raise NotImplementedOperation("Schedules_CreateOrUpdate of a monitor with a preprocessingComponentId")
    first: datetime | None = None
    last: datetime | None = None
    if kind in ("Trailing", "Rolling"):
        size = seconds(data.get("windowSize"), f"{where}.windowSize")
        if not size:
            raise _bad(f"{where} needs a windowSize such as P7D", where)
        last = time - timedelta(seconds=seconds(data.get("windowOffset"), f"{where}.windowOffset") or 0)
        first = last - timedelta(seconds=size)
    elif kind == "Static":
        first, last = (_time(data.get(key), f"{where}.{key}") for key in ("windowStart", "windowEnd"))
        if last <= first:
            raise _bad(f"{where} ends before it begins", where)
    return {
        "uri": str(data["uri"]),
        "jobInputType": data.get("jobInputType") or "uri_folder",
        "from": first and first.isoformat(),
        "until": last and last.isoformat(),
        "columns": dict(data.get("columns") or {}),
        "context": data.get("dataContext"),
    }


def _features(given: Any, where: str) -> list[str] | None:
    """Names; None for all."""
    kind = (given or {}).get("filterType")
    if kind in (None, "AllFeatures"):
        return None
    if kind == "TopNByAttribution":
        raise NotImplementedOperation("Schedules_CreateOrUpdate of a monitor with features of type TopNByAttribution")
    names = given.get("features")
    if kind != "FeatureSubset" or not isinstance(names, list) or not names:
        raise _bad(f"features must be AllFeatures or a FeatureSubset with names, not {given!r}", where)
    return [str(each) for each in names]


def _types(given: Mapping[str, Any], where: str) -> dict[str, str]:
    found = {str(name): str(kind).capitalize() for name, kind in given.items()}
    for name, kind in found.items():
        if kind not in _DRIFT:
            raise _bad(f"featureDataTypeOverride of '{name}' must be numerical or categorical, not '{kind}'", where)
    return found


def _thresholds(kind: str, signal: Mapping[str, Any], where: str) -> dict[str, dict[str, float | None]]:
    key = "dataType"
    given = signal.get("metricThresholds") or []
    if kind == "ModelPerformance":
        key = "modelType"
        text = (signal.get("properties") or {}).get(_PERFORMANCE)
        try:
            given = json.loads(text) if text else [signal.get("metricThreshold") or {}]
        except ValueError as error:
            raise _bad(f"{where}.properties.{_PERFORMANCE} is no JSON: {error}", where) from None
    found: dict[str, dict[str, float | None]] = {}
    for each in given:
        of = str(each.get(key) or "").capitalize()
        metric = _capital(str(each.get("metric") or ""))
        known = METRICS[kind].get(of)
        if known is None:
            raise _bad(f"{key} of a metric must be one of {', '.join(METRICS[kind])}, not '{each.get(key)}'", where)
        if metric not in known:
            raise _bad(f"A {kind} signal has no {of.lower()} metric '{metric}'; it has {', '.join(known)}", where)
        limit = (each.get("threshold") or {}).get("value")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
            raise _bad(f"The threshold of {metric} must be a number, not {limit!r}", where)
        found.setdefault(of, {})[metric] = limit
    if not found:
        raise _bad(f"The signal '{where.removeprefix('signals.')}' needs metric thresholds", where)
    return found


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _time(text: Any, where: str) -> datetime:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        raise _bad(f"{where} is no time: '{text}'", where) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _bad(message: str, target: str) -> BadRequest:
    return BadRequest(f"{message}.", target, "UserError")
