"""Great Expectations suites as a gate, pushed down to the pool as SQL: a check costs the pool, not a worker.

A suite is a file of Great Expectations' own format below include/expectations. Each expectation says in its ``meta``
what its failure means: ``"severity": "block"`` stops the run before training, ``"quarantine"`` takes the rows that
break it out of the table, ``"warn"`` is reported. Where ``meta`` says nothing, Great Expectations' own severity counts
(critical blocks). The suite's ``meta.partition_column`` limits the check to the night's days.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from azflow import sql_execution, tsql
from azflow.connection import AzureConnection
from azflow.errors import AzflowError, QualityFailed, SpecError
from azflow.pushdown import Found, Rows, validate
from azflow.quality_page import blocking, render_page, severity, summarise
from azflow.quarantine import BrokenRule, Check, Quarantine, move
from azflow.report import publish_page
from azflow.runs import AzflowOperator, RunLink, airflow_edge
from azflow.specs import INCLUDE, Night
from azflow.synapse import connect, request_label

if TYPE_CHECKING:
    from airflow.sdk import Context

#: XCom with the summary, pushed before a failure is raised: the run's report shows it then, too.
QUALITY_XCOM = "quality"
_LIKE = "expect_column_values_to_match_like_pattern, or unexpected_rows_expectation with a query"
_QUERY = "unexpected_rows_expectation with a query"
#: Great Expectations has no SQL for these on this dialect: what to use instead.
NOT_IN_SQL = {
    "expect_column_values_to_match_regex": _LIKE,
    "expect_column_values_to_match_regex_list": _LIKE,
    "expect_column_values_to_not_match_regex": _LIKE,
    "expect_column_values_to_not_match_regex_list": _LIKE,
    "expect_column_values_to_match_strftime_format": f"{_QUERY} (TRY_CONVERT)",
    "expect_column_values_to_be_dateutil_parseable": f"{_QUERY} (TRY_CONVERT)",
    "expect_column_values_to_be_json_parseable": f"{_QUERY} (ISJSON)",
    "expect_column_values_to_match_json_schema": f"{_QUERY} (ISJSON, JSON_VALUE)",
    "expect_column_values_to_be_increasing": f"{_QUERY} (LAG)",
    "expect_column_values_to_be_decreasing": f"{_QUERY} (LAG)",
    "expect_multicolumn_values_to_be_unique": "expect_select_column_values_to_be_unique_within_record",
}
_SEVERITIES = ("block", "quarantine", "warn")
_WORDS = {"block": "FAILED", "quarantine": "bad rows", "warn": "warning"}


class ExpectationsOperator(AzflowOperator):
    """Checks one table with one suite.

    XCom: ``{"suite", "table", "days": [first, last] | None, "success", "checked", "failed", "warned", "seconds",
    "report": URL, "data_docs": URL, "quarantined": rows, "quarantine_table", "results": [{"rule", "column", "severity",
    "success", "says", "observed", "unexpected_count", "unexpected_percent", "examples", "error", "found"}]}``, also
    under the key ``quality``.

    :param suite: the file, relative to include/expectations.
    :param table: ``schema.table``.
    :param partition_column: a date column that limits the check to the night's days; default: the suite's
        ``meta.partition_column``; an empty text checks the whole table.
    :param parameters: values for ``{"$PARAMETER": ...}`` in the suite; ``days``, how many there are, is always given.
    :param quarantine: ``{"key": [columns], "table": "schema.table", "max_share": 0.01}``: where rows go that break an
        expectation of severity ``quarantine``; without it such an expectation is an error. If more than `max_share` of
        the checked rows would go, none does and the run stops. ``table`` defaults to the checked one's name and
        ``_quarantine``.
    """

    template_fields = ("suite", "table", "parameters")
    template_fields_renderers: ClassVar[dict[str, str]] = {"parameters": "json"}
    operator_extra_links = (RunLink("Quality report"),)
    ui_color = "#fdf3d8"

    def __init__(
        self,
        *,
        suite: str,
        table: str,
        partition_column: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        quarantine: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.suite = suite
        self.table = table
        self.partition_column = partition_column
        self.parameters = dict(parameters or {})
        self.quarantine = dict(quarantine or {})
        #: URL of the report, for the link.
        self.run_url = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Check, write the report, then pass or stop."""
        with airflow_edge(self.conn_id):
            suite = read_suite(INCLUDE / "expectations", self.suite)
            connection = AzureConnection.load(self.conn_id)
            night: Night = context["night"]  # type: ignore[typeddict-item]
            column = suite["meta"].get("partition_column") if self.partition_column is None else self.partition_column
            days = (night.days[0], night.days[-1]) if column else None
            rows = Rows(self.table, str(column or ""), days)
            place = self._quarantine(suite)
            started = time.monotonic()
            found = validate(
                connection, suite, rows, {"days": len(night.days), **self.parameters}, place.key if place else ()
            )
            summary = summarise(self.suite, self.table, days, found.results, time.monotonic() - started)
            if place and found.failing:
                check = Check(self.suite, night.key, rows.column, rows.days)
                self._move(place, found, check, summary, context=context)
            self._log(summary)
            summary["data_docs"] = self._publish(connection, night, "data-docs", found.data_docs)
            summary["report"] = self.run_url = self._publish(
                connection, night, "", render_page(summary, str(night.partition))
            )
            context["ti"].xcom_push(QUALITY_XCOM, summary)
            if failures := blocking(summary):
                raise QualityFailed(self.suite, self.table, failures)
            return summary

    def _quarantine(self, suite: Mapping[str, Any]) -> Quarantine | None:
        """Where rows may go; raises SpecError if the suite wants a quarantine that there isn't."""
        wanting = [index for index, one in enumerate(suite["expectations"]) if severity(one) == "quarantine"]
        if not self.quarantine:
            if wanting:
                raise SpecError(
                    f"include/expectations/{self.suite}",
                    f"expectations.{wanting[0]}.meta.severity",
                    "is 'quarantine', but model.yml gives this suite no quarantine (key, max_share)",
                )
            return None
        return Quarantine(
            self.table,
            tuple(self.quarantine["key"]),
            str(self.quarantine.get("table") or f"{self.table}_quarantine"),
            float(self.quarantine["max_share"]),
        )

    def _move(
        self, place: Quarantine, found: Found, check: Check, summary: dict[str, Any], *, context: Context
    ) -> None:
        """Move what breaks a rule of severity ``quarantine``; where that can't be, those rules block."""
        results = [summary["results"][position] for position in found.failing]
        rules = [
            BrokenRule(result["says"], int(result["unexpected_count"] or 0), found.failing[position])
            for position, result in zip(found.failing, results, strict=True)
        ]
        label = request_label(context)
        with contextlib.closing(connect(AzureConnection.load(self.conn_id), self.log)) as opened:

            def execute(text: str) -> list[list[Any]]:
                return sql_execution.run_batch(opened, tsql.label_statements(text, label)).rows

            try:
                moved = move(place, rules, check, execute)
            except sql_execution.StatementFailed as problem:
                raise AzflowError(
                    f"Moving rows of {place.table} to {place.into} failed: {problem.message} (error "
                    f"{problem.number}). None was moved.",
                    retry_helps=problem.transient,
                ) from problem
        summary["quarantine_table"] = place.into
        if moved.refused:
            summary["success"] = False
            summary["failed"] += len(results)
            for result in results:
                result["severity"] = "block"
                result["found"] += f"; quarantine: {moved.refused}"
            return
        summary["quarantined"] = moved.rows
        self.log.warning("%s of %s rows were moved to %s.", moved.rows, moved.checked, place.into)

    def _log(self, summary: Mapping[str, Any]) -> None:
        for result in summary["results"]:
            word = "ok" if result["success"] else _WORDS[result["severity"]]
            level = self.log.info if result["success"] else self.log.warning
            level("%-8s %s%s", word, result["says"], "" if result["success"] else f": {result['found']}")
        self.log.info(
            "%s on %s: %s checked, %s failed, %s warned, %s rows quarantined, in %.1f s",
            summary["suite"],
            summary["table"],
            summary["checked"],
            summary["failed"],
            summary["warned"],
            summary["quarantined"],
            summary["seconds"],
        )

    def _publish(self, connection: AzureConnection, night: Night, kind: str, page: str) -> str:
        """Write a page to the lake; its URL. Empty if it couldn't be written: the verdict counts."""
        from azure.core.exceptions import AzureError

        stem = "-".join(filter(None, ("quality", PurePosixPath(self.suite).stem, kind)))
        path = f"reports/{self.model or night.dag_id}/{night.partition}/{night.key}/{stem}.html"
        try:
            return publish_page(connection, path, page)
        except (AzureError, AzflowError) as problem:
            self.log.warning("The quality report couldn't be written to %s: %s", path, problem)
            return ""


def read_suite(root: Path, name: str) -> dict[str, Any]:
    """The suite in `name` below `root`: ``{"name", "meta", "expectations": [{"type", "kwargs", "meta"}]}``.

    :raises SpecError: it doesn't exist, or isn't a suite; names file and key.
    """
    shown = f"include/expectations/{name}"
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise SpecError(shown, "", "must be relative to include/expectations")
    try:
        suite = json.loads((root / pure).read_text(encoding="utf-8"))
    except OSError as problem:
        raise SpecError(shown, "", f"can't be read: {problem.strerror}") from None
    except json.JSONDecodeError as problem:
        raise SpecError(shown, f"line {problem.lineno}", f"is no JSON: {problem.msg}") from None
    expectations = suite.get("expectations") if isinstance(suite, dict) else None
    if not isinstance(expectations, list) or not expectations:
        raise SpecError(shown, "expectations", "must be a list with at least one expectation")
    for index, expectation in enumerate(expectations):
        key = f"expectations.{index}"
        if not isinstance(expectation, dict) or not isinstance(expectation.get("type"), str):
            raise SpecError(shown, key, "must be an object with a type")
        if not isinstance(expectation.get("kwargs", {}), dict) or not isinstance(expectation.get("meta") or {}, dict):
            raise SpecError(shown, key, "kwargs and meta must be objects")
        if instead := NOT_IN_SQL.get(expectation["type"]):
            raise SpecError(shown, f"{key}.type", f"{expectation['type']} can't be asked in SQL; use {instead}")
        if severity(expectation) not in _SEVERITIES:
            words = "'block', 'quarantine' or 'warn'"
            raise SpecError(shown, f"{key}.meta.severity", f"is {severity(expectation)!r}; use {words}")
    return {"name": suite.get("name") or pure.stem, "meta": suite.get("meta") or {}, "expectations": expectations}
