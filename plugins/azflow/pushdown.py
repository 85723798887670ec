"""Great Expectations' expectations, asked of the pool as SQL: a check costs the pool, not a worker.

Temporary tables are off: they are what breaks Great Expectations on Synapse (great_expectations issue 5079).
Importing Great Expectations takes seconds: it happens in `validate`.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azflow import sql_execution
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, AzflowError, ConfigurationError, ServiceUnavailable, SpecError
from azflow.expectation_sql import failing_rows, register_uniqueness
from azflow.quality_page import EXAMPLES, severity

_TABLE = re.compile(r"^\w+(\.\w+)?$")
_COLUMN = re.compile(r"^\w+$")


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


@dataclass(frozen=True)
class Found:
    """What Great Expectations says.

    :param results: each expectation's, in the suite's order, as its JSON has it.
    :param failing: by the position of an expectation of severity ``quarantine`` that failed: a SELECT of the key over
        the rows that break it.
    :param data_docs: Great Expectations' own page of the results.
    """

    results: list[dict[str, Any]]
    failing: dict[int, str]
    data_docs: str


def validate(
    connection: AzureConnection,
    suite: Mapping[str, Any],
    rows: Rows,
    parameters: Mapping[str, Any],
    key: Sequence[str] = (),
) -> Found:
    """Ask all of a suite's expectations.

    :param key: columns that tell the rows apart, for those that are to be quarantined.
    :raises SpecError: an expectation doesn't exist or its arguments are wrong.
    :raises AccessDenied, ServiceUnavailable: the pool refuses the log-in or can't be reached.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read at import: nothing is told to anybody
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    register_uniqueness()
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
        failing = {
            made.meta["position"]: failing_rows(batch, made, key)
            for made in expectations
            if severity({"meta": made.meta, "severity": made.severity}) == "quarantine"
            and _broken(found[made.meta["position"]])
        }
    except GreatExpectationsError as problem:
        raise _pool_error(connection, problem) from problem
    except Exception as problem:
        if type(problem).__module__.startswith("great_expectations"):
            raise _pool_error(connection, problem) from problem
        raise
    ordered = [found[position] for position in sorted(found)]
    plain = [json.loads(json.dumps(result.to_json_dict(), default=str)) for result in ordered]
    return Found(plain, failing, _data_docs(suite["name"], ordered))


def _ask(batch: Any, expectations: Sequence[Any], parameters: Mapping[str, Any]) -> dict[int, Any]:
    """Position -> Great Expectations' result, for every expectation.

    Only what fails is asked for examples: Great Expectations puts what it can into one query; examples cost one each,
    and it asks for them even where nothing is wrong.

    :raises AzflowError: some weren't answered.
    """
    from great_expectations.core import ExpectationSuite

    def ask(some: Sequence[Any], result_format: Mapping[str, Any]) -> dict[int, Any]:
        if not some:
            return {}
        outcome = batch.validate(
            ExpectationSuite(name="some", expectations=list(some)),
            result_format=dict(result_format),
            expectation_parameters=dict(parameters),
        )
        return {int(result.expectation_config.meta["position"]): result for result in outcome.results}

    of_rows = [one for one in expectations if getattr(one, "mostly", None) == 1]
    found = ask(of_rows, {"result_format": "BOOLEAN_ONLY"})
    wanted = [one for one in expectations if not (known := found.get(one.meta["position"])) or not known.success]
    found |= ask(wanted, {"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES})
    if len(found) != len(expectations):
        raise AzflowError(
            f"Great Expectations answered {len(found)} of {len(expectations)} expectations; none of it is trusted."
        )
    return found


def _broken(result: Any) -> bool:
    """Whether rows break it; one that couldn't be asked at all has no rows to show."""
    return not result.success and bool((result.result or {}).get("unexpected_count"))


def _data_docs(suite: str, results: Sequence[Any]) -> str:
    """Great Expectations' page of the results; its style sheets and scripts come from public addresses.

    https://docs.greatexpectations.io/docs/core/configure_project_settings/configure_data_docs
    """
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    held = sum(bool(result.success) for result in results)
    safe = [
        ExpectationValidationResult(
            success=result.success,
            expectation_config=result.expectation_config,
            result=_escaped(result.result),
            exception_info=_escaped(result.exception_info),
            meta=result.meta,
        )
        for result in results
    ]
    outcome = ExpectationSuiteValidationResult(
        success=held == len(results),
        results=safe,
        suite_name=suite,
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": held,
            "unsuccessful_expectations": len(results) - held,
            "success_percent": 100 * held / len(results),
        },
        meta={},
    )
    view: Any = DefaultJinjaPageView()
    return str(view.render(ValidationResultsPageRenderer(run_info_at_end=False).render(outcome)))


def _escaped(value: Any) -> Any:
    """The value with every text in it escaped: what the data says goes into Great Expectations' page as it is."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, Mapping):
        return {key: _escaped(one) for key, one in value.items()}
    return [_escaped(one) for one in value] if isinstance(value, list | tuple) else value


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
