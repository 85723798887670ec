"""Scoring days again: which versions, and how they compare on the same rows.

A range is scored again after a repair, for a report, or to see what an older version would have said. What stands
around the jobs is here; the DAG is ``dags/rescoring.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError
from azflow.evaluation import serving_model, tagged_model
from azflow.metrics import shown
from azflow.ml import lake_folder
from azflow.ml_workspace import Workspace
from azflow.report import publish_page
from azflow.rescoring_page import render
from azflow.runs import RunLink
from azflow.specs import Night

if TYPE_CHECKING:
    from airflow.sdk import Context


class RescoredVersionsOperator(AzflowOperator):
    """Answers which registered versions score a range.

    XCom: ``{"name", "version", "path", "deployment", "against", "against_path"}``; deployment is ``batch`` for a
    version that doesn't serve and ``none`` for a model without an endpoint, ``against`` and ``against_path`` are empty
    without a second version.

    :param registered_model: the registered model.
    :param version: the one whose predictions are meant; empty: who serves, or is tagged champion.
    :param against: another one, for comparison; may be empty.
    :param endpoint_name: the model's online endpoint; empty: it has none.
    """

    template_fields = ("registered_model", "version", "against", "endpoint_name")

    def __init__(
        self, *, registered_model: str, version: str = "", against: str = "", endpoint_name: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.registered_model = registered_model
        self.version = version
        self.against = against
        self.endpoint_name = endpoint_name

    def execute(self, context: Context) -> dict[str, str]:
        """Look who serves, and that both versions are there."""
        name = self.registered_model
        with airflow_edge(self.conn_id):
            connection = AzureConnection.load(self.conn_id)
            if self.endpoint_name:
                serves = serving_model(connection, self.endpoint_name)
            else:
                serves = tagged_model(connection, name)
            version, against = str(self.version).strip(), str(self.against).strip()
            if not version and serves is None:
                raise ConfigurationError(f"No version of {name} serves; say in the form which one scores.")
            version = version or (serves or {})["version"]
            with contextlib.closing(Workspace(connection)) as workspace:
                for asked in filter(None, (version, against)):
                    if workspace.version("models", name, asked) is None:
                        raise ConfigurationError(f"The workspace has no version {asked} of the model {name}.")
        serving = serves is not None and serves["version"] == version
        found = {
            "name": name,
            "version": version,
            "path": f"azureml:{name}:{version}",
            "deployment": (serving and serves is not None and serves["deployment"]) or self._without_deployment(),
            "against": against,
            "against_path": f"azureml:{name}:{against}" if against else "",
        }
        self.log.info("Version %s scores%s", version, f", beside version {against}" if against else "")
        return found

    def _without_deployment(self) -> str:
        """What the rows' column ``deployment`` says of a version that doesn't serve: a model without an endpoint has no
        such column (``none``), one with an endpoint has it in every row.
        """
        return "batch" if self.endpoint_name else "none"


class VersionComparisonOperator(AzflowOperator):
    """Reads how two versions did on the same rows: those of the range whose outcome is known.

    XCom: ``{"metric", "rows", "unlabelled", "version", "against", "difference"}``: `version` and `against` are
    ``{"version", "value", "low", "high"}``, `difference` is the first minus the second on the same resampled rows.
    Values are None where they aren't defined: no outcomes yet, or all alike; ``problem`` then says why.

    :param versions: task id of the `RescoredVersionsOperator`.
    :param comparison: task id of the evaluation job, whose output ``evidence`` is a folder with ``evidence.json``.
    """

    template_fields = ("versions", "comparison")
    ui_color = "#fdf3d6"

    def __init__(self, *, versions: str = "versions", comparison: str = "compare", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.versions = versions
        self.comparison = comparison

    def execute(self, context: Context) -> dict[str, Any]:
        """Read and say."""
        with airflow_edge(self.conn_id):
            asked = context["ti"].xcom_pull(task_ids=self.versions)
            job = context["ti"].xcom_pull(task_ids=self.comparison)
            uri = job.get("outputs", {}).get("evidence") if isinstance(job, Mapping) else None
            if not uri or not isinstance(asked, Mapping):
                raise ConfigurationError(f"The task {self.comparison} left no output 'evidence'; clear it.")
            evidence = lake_folder(AzureConnection.load(self.conn_id), uri).read_json("evidence.json")
        found = comparison(evidence, str(asked["version"]), str(asked["against"]))
        self.log.info("%s on %s rows with an outcome, %s without", found["metric"], found["rows"], found["unlabelled"])
        for name in ("version", "against"):
            self.log.info("version %s: %s", found[name]["version"], _said(found[name]))
        self.log.info("difference %s", _said(found["difference"], signed=True))
        return found


class VersionsPageOperator(AzflowOperator):
    """Shows two versions on the same days: a page in the lake.

    XCom: ``{"url", "path", "days", "agreement", "mean_absolute_difference"}``; the last two are None without a row.

    :param versions: task id of the `RescoredVersionsOperator`.
    :param figures: task id of the SQL file whose last result set has a row a day, and one without a day for all.
    :param comparison: task id of the `VersionComparisonOperator`.
    """

    template_fields = ("versions", "figures", "comparison")
    operator_extra_links = (RunLink("Comparison"),)
    ui_color = "#efe6fb"

    def __init__(
        self, *, versions: str = "versions", figures: str = "figures", comparison: str = "comparison", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.versions = versions
        self.figures = figures
        self.comparison = comparison
        #: URL of the page, for the link.
        self.run_url = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Read, render, upload."""
        with airflow_edge(self.conn_id):
            asked, found, judged = (
                context["ti"].xcom_pull(task_ids=each) for each in (self.versions, self.figures, self.comparison)
            )
            if not isinstance(found, Mapping) or not isinstance(asked, Mapping):
                raise ConfigurationError(f"The task {self.figures} left no figures; clear it.")
            rows = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
            night: Night = context["night"]  # type: ignore[typeddict-item]
            path = f"reports/{self.model or night.dag_id}/{night.partition}/{night.key}/versions.html"
            html = render(rows, judged, model=self.model, version=str(asked["version"]), against=str(asked["against"]))
            self.run_url = publish_page(AzureConnection.load(self.conn_id), path, html)
        whole = next((row for row in rows if row["flight_date"] is None), {})
        self.log.info("Page: %s", self.run_url)
        return {
            "url": self.run_url,
            "path": path,
            "days": sum(row["flight_date"] is not None for row in rows),
            "agreement": whole.get("agreement"),
            "mean_absolute_difference": whole.get("mean_absolute_difference"),
        }


def comparison(evidence: Mapping[str, Any], version: str, against: str) -> dict[str, Any]:
    """The evidence of an evaluation whose challenger was `version` and whose champion was `against`. Pure."""
    found: dict[str, Any] = {
        "metric": evidence.get("metric", ""),
        "rows": evidence.get("rows", 0),
        "unlabelled": evidence.get("unlabelled", 0),
        "version": {"version": version, **_measured(evidence.get("challenger"))},
        "against": {"version": against, **_measured(evidence.get("champion"))},
        "difference": _measured(evidence.get("difference")),
    }
    problems = [evidence, evidence.get("challenger"), evidence.get("champion")]
    said = [str(one["problem"]) for one in problems if isinstance(one, Mapping) and one.get("problem")]
    return found | ({"problem": said[0]} if said else {})


def _measured(found: object) -> dict[str, float | None]:
    known = found if isinstance(found, Mapping) else {}
    return {name: known.get(name) for name in ("value", "low", "high")}


def _said(found: Mapping[str, Any], *, signed: bool = False) -> str:
    if found["value"] is None:
        return "not defined"
    interval = (
        ""
        if found["low"] is None
        else f" [{shown(found['low'], signed=signed)}, {shown(found['high'], signed=signed)}]"
    )
    return shown(found["value"], signed=signed) + interval
