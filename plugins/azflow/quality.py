"""Great Expectations suites as a gate, pushed down to the pool as SQL: a check costs the pool, not a worker.

A suite is a file of Great Expectations' own format below include/expectations. Each expectation says in its ``meta``
what its failure means: ``"severity": "block"`` stops the run before training, ``"warn"`` is reported. Where ``meta``
says nothing, Great Expectations' own severity counts (critical blocks). The suite's ``meta.partition_column`` limits
the check to the night's days. Temporary tables are off: they are what breaks Great Expectations on Synapse
(great_expectations issue 5079).

Importing Great Expectations takes seconds: it happens inside the task only.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from azflow import pages, sql_execution
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, AzflowError, ConfigurationError, QualityFailed, ServiceUnavailable, SpecError
from azflow.report import publish_page
from azflow.runs import AzflowOperator, RunLink, airflow_edge
from azflow.specs import INCLUDE, Night

if TYPE_CHECKING:
    from airflow.sdk import Context

#: XCom with the summary, pushed before a failure is raised: the run's report shows it then, too.
QUALITY_XCOM = "quality"
EXAMPLES = 5
_TABLE = re.compile(r"^\w+(\.\w+)?$")
_COLUMN = re.compile(r"^\w+$")
_OWN_SEVERITY = {"critical": "block", "warning": "warn", "info": "warn"}


#: Great Expectations makes temporary tables for these on this dialect, whatever its settings say.
_NEEDS_TEMPORARY_TABLE = {
    "expect_column_values_to_be_unique": "expect_column_proportion_of_unique_values_to_be_between with min_value 1",
    "expect_compound_columns_to_be_unique": "unexpected_rows_expectation with GROUP BY ... HAVING COUNT(*) > 1",
}


class ExpectationsOperator(AzflowOperator):
    """Checks one table with one suite.

    XCom: ``{"suite", "table", "days": [first, last] | None, "success", "checked", "failed", "warned", "seconds",
    "report": URL, "results": [{"rule", "column", "severity", "success", "says", "observed", "unexpected_count",
    "unexpected_percent", "examples", "error", "found"}]}``, also under the key ``quality``.

    :param suite: the file, relative to include/expectations.
    :param table: ``schema.table``.
    :param partition_column: a date column that limits the check to the night's days; default: the suite's
        ``meta.partition_column``; an empty text checks the whole table.
    :param parameters: values for ``{"$PARAMETER": ...}`` in the suite; ``days``, how many there are, is always given.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.suite = suite
        self.table = table
        self.partition_column = partition_column
        self.parameters = dict(parameters or {})
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
            started = time.monotonic()
            rows = Rows(self.table, str(column or ""), days)
            found = validate(connection, suite, rows, {"days": len(night.days), **self.parameters})
            summary = summarise(self.suite, self.table, days, found, time.monotonic() - started)
            self._log(summary)
            summary["report"] = self.run_url = self._publish(connection, context, night, summary)
            context["ti"].xcom_push(QUALITY_XCOM, summary)
            if failures := blocking(summary):
                raise QualityFailed(self.suite, self.table, failures)
            return summary

    def _log(self, summary: Mapping[str, Any]) -> None:
        for result in summary["results"]:
            word = "ok" if result["success"] else "FAILED" if result["severity"] == "block" else "warning"
            level = self.log.info if result["success"] else self.log.warning
            level("%-8s %s%s", word, result["says"], "" if result["success"] else f": {result['found']}")
        self.log.info(
            "%s on %s: %s checked, %s failed, %s warned, in %.1f s",
            summary["suite"],
            summary["table"],
            summary["checked"],
            summary["failed"],
            summary["warned"],
            summary["seconds"],
        )

    def _publish(self, connection: AzureConnection, context: Context, night: Night, summary: Mapping[str, Any]) -> str:
        """Write the report page to the lake; its URL. Empty if it couldn't be written: the verdict counts."""
        from azure.core.exceptions import AzureError

        stem = PurePosixPath(self.suite).stem
        path = f"reports/{self.model or night.dag_id}/{night.partition}/{night.key}/quality-{stem}.html"
        try:
            return publish_page(connection, path, render_page(summary, str(night.partition)))
        except (AzureError, AzflowError) as problem:
            self.log.warning("The quality report couldn't be written to %s: %s", path, problem)
            return ""


# the suite


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
        if instead := _NEEDS_TEMPORARY_TABLE.get(expectation["type"]):
            raise SpecError(shown, f"{key}.type", f"{expectation['type']} needs a temporary table; use {instead}")
        if severity(expectation) not in ("block", "warn"):
            raise SpecError(shown, f"{key}.meta.severity", f"is {severity(expectation)!r}; use 'block' or 'warn'")
    return {"name": suite.get("name") or pure.stem, "meta": suite.get("meta") or {}, "expectations": expectations}


def severity(expectation: Mapping[str, Any]) -> str:
    """What a failure means: ``block`` or ``warn`` (or a word the file got wrong)."""
    own = _OWN_SEVERITY.get(str(expectation.get("severity") or "critical"), "block")
    return str((expectation.get("meta") or {}).get("severity", own))


@dataclass(frozen=True)
class Rows:
    """What is checked: a table, and of it the rows whose `column` lies within `days` (ISO, both included).

    :raises ConfigurationError: the names aren't names.
    """

    table: str
    column: str = ""
    days: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not _TABLE.match(self.table):
            raise ConfigurationError(f"{self.table!r} is no name of a table; use schema.table.")
        if self.days and not _COLUMN.match(self.column):
            raise ConfigurationError(f"{self.column!r} is no name of a column (meta.partition_column).")


# Great Expectations


def validate(
    connection: AzureConnection, suite: Mapping[str, Any], rows: Rows, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Each expectation's result, in the suite's order, as Great Expectations gives it (its JSON).

    :raises SpecError: an expectation doesn't exist or its arguments are wrong.
    :raises AccessDenied, ServiceUnavailable: the pool refuses the log-in or can't be reached.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read at import: nothing is told to anybody
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    shown = f"suite {suite['name']}"
    context: Any = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    # The position travels in `meta`: results come back in the order of the columns, not of the suite.
    numbered = [
        {**expectation, "meta": {**(expectation.get("meta") or {}), "position": index}}
        for index, expectation in enumerate(suite["expectations"])
    ]
    # Built one by one: a suite made of plain objects logs the ones that are wrong and goes on without them.
    expectations = []
    for index, expectation in enumerate(numbered):
        try:
            made = ExpectationConfiguration(**_known_keys(expectation)).to_domain_obj()
            expectations.append(_within(made, rows))
        except Exception as problem:
            key = f"expectations.{index} ({expectation['type']})"
            raise SpecError(shown, key, _first_line(problem)) from problem
    arguments = connection.sqlalchemy_engine_arguments()
    try:
        source = context.data_sources.add_sql(
            "pool",
            connection_string=arguments["connection_string"],
            # Nothing is written, so nothing is gained by transactions; a pool would only hold locks for them.
            kwargs={**arguments["kwargs"], "isolation_level": "AUTOCOMMIT"},
            create_temp_table=False,
        )
        # A table, not a query: Great Expectations can't tell the columns of a query on this dialect.
        schema, _, name = rows.table.rpartition(".")
        asset = source.add_table_asset("rows", table_name=name, schema_name=schema or None)
        batch = asset.add_batch_definition_whole_table("all").get_batch()
        found = _ask(batch, expectations, dict(parameters))
    except GreatExpectationsError as problem:
        raise _pool_error(connection, problem) from problem
    except Exception as problem:
        if type(problem).__module__.startswith("great_expectations"):
            raise _pool_error(connection, problem) from problem
        raise
    if len(found) != len(expectations):
        raise AzflowError(
            f"Great Expectations answered {len(found)} of {len(expectations)} expectations of {shown}; "
            "none of it is trusted."
        )
    return [found[position] for position in sorted(found)]


def _ask(batch: Any, expectations: Sequence[Any], parameters: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Position -> result. Only what fails is asked for examples: they cost a query each.

    Great Expectations puts what it can into one query; examples aren't among it, and it asks for them even where
    nothing is wrong.
    """
    from great_expectations.core import ExpectationSuite

    def ask(some: Sequence[Any], result_format: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        if not some:
            return {}
        outcome = batch.validate(
            ExpectationSuite(name="some", expectations=list(some)),
            result_format=dict(result_format),
            expectation_parameters=dict(parameters),
        )
        plain = [json.loads(json.dumps(result.to_json_dict(), default=str)) for result in outcome.results]
        return {int(result["expectation_config"]["meta"]["position"]): result for result in plain}

    of_rows = [one for one in expectations if getattr(one, "mostly", None) == 1]
    found = ask(of_rows, {"result_format": "BOOLEAN_ONLY"})
    wanted = [one for one in expectations if not found.get(one.meta["position"], {}).get("success")]
    return found | ask(wanted, {"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES})


def _within(expectation: Any, rows: Rows) -> Any:
    """The expectation, limited to the rows' days, beside what it is limited to by itself."""
    from great_expectations.expectations.row_conditions import Column, Condition

    if rows.days is None or "row_condition" not in type(expectation).__fields__:
        return expectation  # what the table as such has to be
    column = Column(rows.column)
    ours = (column >= rows.days[0]) & (column <= rows.days[1])
    own = expectation.row_condition
    if own is not None and not isinstance(own, Condition):
        raise ValueError("row_condition must be in Great Expectations' own format, an object with a type")
    expectation.row_condition = ours if own is None else own & ours
    return expectation


def _known_keys(expectation: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("type", "kwargs", "meta", "id", "description", "severity", "notes", "rendered_content")
    return {"kwargs": {}, **{key: value for key, value in expectation.items() if key in keys}}


def _pool_error(connection: AzureConnection, problem: BaseException) -> AzflowError:
    """What a failed connection is behind Great Expectations' wrapping."""
    inner: BaseException | None = problem
    chain = []
    while inner is not None and inner not in chain:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__ or getattr(inner, "orig", None) or getattr(inner, "cause", None)
    for error in chain:
        if isinstance(error, AzflowError):
            return error
    for error in reversed(chain):
        if (failed := sql_execution.connection_failure(error)) is not None:
            if failed.denied:
                return AccessDenied(connection.id, failed.message)
            return ServiceUnavailable(f"SQL pool {connection.sql_server}: {failed.message}")
    return ServiceUnavailable(f"SQL pool {connection.sql_server}: {_first_line(problem)}")


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(problem).__name__


# the summary


def summarise(
    suite: str, table: str, days: tuple[str, str] | None, found: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """What the operator's XCom holds; small and plain."""
    results = [_result(one) for one in found]
    failed = [result for result in results if not result["success"]]
    return {
        "suite": suite,
        "table": table,
        "days": list(days) if days else None,
        "success": all(result["severity"] != "block" for result in failed),
        "checked": len(results),
        "failed": sum(result["severity"] == "block" for result in failed),
        "warned": sum(result["severity"] == "warn" for result in failed),
        "seconds": round(seconds, 2),
        "report": "",
        "results": results,
    }


def _result(found: Mapping[str, Any]) -> dict[str, Any]:
    config = found["expectation_config"]
    kwargs = {key: value for key, value in config["kwargs"].items() if key not in ("batch_id", "row_condition")}
    result = found.get("result") or {}
    made = {
        "rule": config["type"],
        "column": kwargs.get("column") or ", ".join(kwargs.get("column_list") or ()) or None,
        "severity": severity(config),
        "success": bool(found["success"]),
        "says": says(config["type"], kwargs),
        "observed": _plain(result.get("observed_value")),
        "unexpected_count": result.get("unexpected_count"),
        "unexpected_percent": _rounded(result.get("unexpected_percent")),
        "examples": _examples(result),
        "error": _error(found.get("exception_info") or {}),
    }
    return {**made, "found": finding(made)}


def _rounded(value: object) -> float | None:
    return round(value, 3) if isinstance(value, int | float) and math.isfinite(value) else None


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)[:200]


def _examples(result: Mapping[str, Any]) -> list[object]:
    """Different offending values, most frequent first."""
    counted = result.get("partial_unexpected_counts") or []
    values = (
        [one.get("value") for one in counted if isinstance(one, Mapping)] or result.get("partial_unexpected_list") or []
    )
    distinct: list[object] = []
    for value in values:
        if (plain := _plain(value)) not in distinct:
            distinct.append(plain)
    return distinct[:EXAMPLES]


def _error(info: Mapping[str, Any]) -> str | None:
    """Why an expectation couldn't be checked at all; it comes alone, or one a metric."""
    entries = [info] if "raised_exception" in info else [entry for entry in info.values() if isinstance(entry, Mapping)]
    for entry in entries:
        if entry.get("raised_exception"):
            message = str(entry.get("exception_message") or "").strip()
            lines = [line.strip() for line in message.splitlines() if line.strip()]
            return (lines[0] if lines else "the check raised an error")[:300]
    return None


_SAYS = {
    "expect_table_row_count_to_be_between": "row count",
    "expect_column_values_to_not_be_null": "{column} is never null",
    "expect_column_values_to_be_null": "{column} is always null",
    "expect_column_values_to_be_in_set": "{column} is one of {value_set}",
    "expect_column_values_to_not_be_in_set": "{column} is none of {value_set}",
    "expect_column_distinct_values_to_be_in_set": "{column} takes only {value_set}",
    "expect_column_values_to_be_between": "{column}",
    "expect_column_mean_to_be_between": "mean of {column}",
    "expect_column_max_to_be_between": "greatest {column}",
    "expect_column_min_to_be_between": "smallest {column}",
    "expect_column_unique_value_count_to_be_between": "number of different {column}",
    "expect_column_proportion_of_non_null_values_to_be_between": "share of {column} that isn't null",
    "expect_column_proportion_of_unique_values_to_be_between": "share of different values in {column}",
    "expect_column_to_exist": "{column} exists",
}
_SHOWN_SET = 6


def says(kind: str, kwargs: Mapping[str, Any]) -> str:
    """An expectation in a person's words: `temp is never null (at least 90 % of the rows)`."""
    shown = {key: _listed(value) for key, value in kwargs.items()}
    words = _SAYS.get(
        kind, kind.removeprefix("expect_").replace("_", " ") + (" ({column})" if "column" in shown else "")
    )
    words = re.sub(r"\{(\w+)\}", lambda match: str(shown.get(match[1], match[0])), words)
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is not None and high is not None:
        words += f" between {_number(low)} and {_number(high)}"
    elif low is not None:
        words += f" at least {_number(low)}"
    elif high is not None:
        words += f" at most {_number(high)}"
    mostly = kwargs.get("mostly")
    return f"{words} (at least {mostly:.4g} of the rows)" if isinstance(mostly, int | float) and mostly < 1 else words


def _number(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float) else str(value)


def _listed(value: object) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    return ", ".join(map(str, value[:_SHOWN_SET])) + (
        f" and {len(value) - _SHOWN_SET} more" if len(value) > _SHOWN_SET else ""
    )


def finding(result: Mapping[str, Any]) -> str:
    """What was seen, in one line."""
    if result["error"]:
        return f"couldn't be checked: {result['error']}"
    parts = []
    if result["observed"] is not None:
        parts.append(_number(result["observed"]) if result["success"] else f"it is {_number(result['observed'])}")
    if result["unexpected_count"]:
        share = f" ({result['unexpected_percent']:.3g} %)" if result["unexpected_percent"] is not None else ""
        parts.append(f"{result['unexpected_count']:,} rows{share} break it")
    if any(example is not None for example in result["examples"]):
        parts.append(f"e.g. {', '.join(map(str, result['examples']))}")
    return ", ".join(parts) or ("" if result["success"] else "it doesn't hold")


def blocking(summary: Mapping[str, Any]) -> list[str]:
    """One line a blocking failure: column, rule, what was found."""
    return [
        f"{result['column'] or summary['table']}: {result['rule']}: expected {result['says']}; {result['found']}"
        for result in summary["results"]
        if not result["success"] and result["severity"] == "block"
    ]


# the page


def results_table(summary: Mapping[str, Any]) -> pages.Html:
    """Every expectation, failures first."""

    def outcome(result: Mapping[str, Any]) -> pages.Html:
        if result["success"]:
            return pages.badge("ok", "good")
        return pages.badge("failed", "bad") if result["severity"] == "block" else pages.badge("warning", "warn")

    ordered = sorted(summary["results"], key=lambda result: (result["success"], result["severity"] != "block"))
    return pages.table(
        ["", "Column", "Expectation", "Found", "Rows that break it", "A failure"],
        [
            (
                outcome(result),
                pages.code(result["column"]) if result["column"] else "",
                result["says"],
                result["found"],
                result["unexpected_count"],
                "stops the run" if result["severity"] == "block" else "is reported",
            )
            for result in ordered
        ],
        numbers=(4,),
    )


def render_page(summary: Mapping[str, Any], partition: str) -> str:
    """The suite's own report page."""
    rows = next(
        (r["observed"] for r in summary["results"] if r["rule"] == "expect_table_row_count_to_be_between"), None
    )
    first, last = summary["days"] or ("", "")
    days = (f"{first} to {last}" if first != last else f"rows of {last}") if summary["days"] else "all rows"
    verdict = pages.badge("passed", "good") if summary["success"] else pages.badge("stopped the run", "bad")
    return pages.page(
        f"Data quality of {summary['table']}",
        pages.join([pages.text(f"Suite {summary['suite']}, night of {partition}, {days} "), verdict]),
        pages.facts(
            [
                (summary["checked"], "expectations checked"),
                (summary["failed"], "failed"),
                (summary["warned"], "warnings"),
                (rows, "rows"),
                (f"{summary['seconds']:.1f} s", "in the SQL pool"),
            ]
        ),
        pages.section("Expectations", "", results_table(summary)),
        footer="Checked by Great Expectations, as SQL in the pool.",
    )
