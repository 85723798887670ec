"""What `watch` in a model.yml is made of: signals and their limits, captured requests, outcomes that come late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from azflow.spec_parts import Part, Text, as_tuple

_DRIFT_METRICS = (
    "jensen_shannon_distance",
    "normalized_wasserstein_distance",
    "pearsons_chi_squared_test",
    "population_stability_index",
    "two_sample_kolmogorov_smirnov_test",
)
MONITORING_METRICS: Mapping[str, tuple[str, ...]] = {
    "data_drift": _DRIFT_METRICS,
    "prediction_drift": _DRIFT_METRICS,
    "data_quality": ("data_type_error_rate", "null_value_rate", "out_of_bounds_rate"),
    "model_performance": ("accuracy", "mean_absolute_error", "roc_auc", "root_mean_squared_error"),
}

#: Of a distance the most it may be, of a test the least p-value, of a rate how much it may rise, of a performance
#: metric how much it may lose.
Limits = Mapping[str, Annotated[float, Field(ge=0)]]
Share = Annotated[float, Field(ge=0, le=1)]


class Signal(Part):
    """What is watched, and its limits. Metrics are Azure ML's:
    https://learn.microsoft.com/azure/machine-learning/concept-model-monitoring#supported-signals-and-metrics

    :ivar data: whose rows: ``scored`` are those of the window's SQL, ``captured`` what the endpoint was asked and
        answered, as Azure ML's data collector wrote it.
    :ivar numerical: drift metrics of numerical columns -> limit.
    :ivar categorical: drift metrics of categorical columns -> limit.
    :ivar thresholds: metrics of ``data_quality`` (how much a rate may rise above training's) and of
        ``model_performance`` (how much the metric may lose against the hold-out) -> limit.
    :ivar features: which columns; default: all that both sides have.
    :ivar warn_only: columns that never raise more than a warning; ``*`` are all.
    :ivar min_rows: in place of the watch's.
    """

    type: Literal["data_drift", "prediction_drift", "data_quality", "model_performance"]
    data: Literal["scored", "captured"] = "scored"
    numerical: Limits = Field(default={})
    categorical: Limits = Field(default={})
    thresholds: Limits = Field(default={})
    features: tuple[Text, ...] = ()
    warn_only: tuple[Text, ...] = ()
    min_rows: Annotated[int, Field(ge=1)] | None = None

    _lists = field_validator("features", "warn_only", mode="before")(as_tuple)

    @model_validator(mode="after")
    def _limits_of_its_type(self) -> Self:
        drift = self.type.endswith("drift")
        if drift and not (self.numerical or self.categorical):
            raise ValueError(f"{self.type} needs limits: numerical, categorical or both")
        if drift and self.thresholds:
            raise ValueError(f"{self.type} takes its limits as numerical and categorical, not as thresholds")
        if not drift and (self.numerical or self.categorical or not self.thresholds):
            raise ValueError(f"{self.type} takes its limits as thresholds")
        if self.type == "model_performance" and self.data == "captured":
            raise ValueError("captured requests have no outcomes: model_performance is about data: scored")
        known = MONITORING_METRICS[self.type]
        for metric in (*self.numerical, *self.categorical, *self.thresholds):
            if metric not in known:
                raise ValueError(f"{metric} is no metric of {self.type}; there are {', '.join(known)}")
        return self


class Captured(Part):
    """Which of the requests that the endpoint captured are looked at. Captured data is filed by the clock, not by
    partition: the days up to `until`.

    :ivar days: how many.
    :ivar until: the last day; a template.
    """

    days: Annotated[int, Field(ge=1, le=90)] = 7
    until: Text = "{{ dag_run.run_after.date() }}"


class AzureMonitor(Part):
    """Azure ML's own monitor beside azflow's, from the signals about captured requests (`azflow.azure_monitor`).

    :ivar runtime_version: of serverless Spark.
    :ivar instance_type: of serverless Spark.
    :ivar time_zone: of the schedule, a Windows name as Azure ML wants it.
    :ivar emails: who is told of a run.
    :ivar task: what the model does.
    :ivar signals: which of the signals it has. ``prediction_drift`` is compared with the answers of the time before the
        window: it fails until a deployment has served for so long.
    :ivar features: which columns, where a signal names none; default: all, what identifies a row among them.
    """

    signals: tuple[Literal["data_drift", "data_quality", "prediction_drift"], ...] = ("data_drift", "data_quality")
    features: tuple[Text, ...] = ()
    runtime_version: Literal["3.4", "3.5"] = "3.4"
    instance_type: Literal[
        "standard_e4s_v3", "standard_e8s_v3", "standard_e16s_v3", "standard_e32s_v3", "standard_e64s_v3"
    ] = "standard_e4s_v3"
    time_zone: Text = "UTC"
    emails: tuple[Text, ...] = ()
    task: Literal["classification", "regression"] = "classification"

    _lists = field_validator("emails", "signals", "features", mode="before")(as_tuple)


class Outcomes(Part):
    """When outcomes are due, and how many may be missing then. More are a warning, never an alarm: a retraining
    wouldn't have them either.

    :ivar day: the window's column with the day that a row is of.
    :ivar due_days: so many days later its outcome is due.
    :ivar max_missing: the share of the rows that are due which may be without one.
    """

    day: Annotated[str, StringConstraints(pattern=r"^\w+$")]
    due_days: Annotated[int, Field(ge=0, le=365)]
    max_missing: Share = 0.1
