"""What Great Expectations can't ask a Synapse pool by itself: uniqueness without temporary tables, and failing rows.

For uniqueness Great Expectations makes a temporary table on SQL Server's dialect, after reading the catalogue of the
whole database, and loses the row condition of several columns; the rows that it names as failing are those of the
whole table. Here both are one statement each. Great Expectations 1.24; importing it takes seconds, so that it happens
in the functions.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from azflow.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlalchemy as sa

_UNIQUE = {"column_values.unique": "column", "compound_columns.unique": "column_list"}
_VALUES_SHOWN = 20


@functools.cache
def register_uniqueness() -> None:
    """Let this process count and sample duplicates by grouping; the row condition and NULLs count as in pandas.

    https://docs.greatexpectations.io/docs/core/customize_expectations
    """
    from great_expectations.execution_engine.sqlalchemy_execution_engine import SqlAlchemyExecutionEngine
    from great_expectations.expectations.metrics.metric_provider import MetricProvider, metric_value

    def made(metric: str, domain: str, suffix: str, answer: Any) -> None:
        """Register one metric; making the class is what registers it."""

        @metric_value(engine=SqlAlchemyExecutionEngine)
        def _sqlalchemy(
            cls: type, *, execution_engine: Any, metric_domain_kwargs: Mapping[str, Any], **_more: Any
        ) -> Any:
            columns = metric_domain_kwargs[domain]
            names = [columns] if isinstance(columns, str) else list(columns)
            groups = _duplicates(execution_engine, metric_domain_kwargs, names)
            return answer(execution_engine, groups, names)

        type(
            "DuplicatesInThePool",
            (MetricProvider,),
            {
                "metric_name": f"{metric}.{suffix}",
                "domain_keys": ("batch_id", "table", domain, "row_condition", "condition_parser", "ignore_row_if"),
                "value_keys": ("result_format",) if suffix == "unexpected_values" else (),
                "_sqlalchemy": _sqlalchemy,
            },
        )

    registry = logging.getLogger("great_expectations.expectations.registry")
    level = registry.level
    registry.setLevel(logging.ERROR)  # that a metric is replaced is meant
    try:
        for metric, domain in _UNIQUE.items():
            made(metric, domain, "unexpected_count", _count)
            made(metric, domain, "unexpected_values", _values)
    finally:
        registry.setLevel(level)


def _duplicates(engine: Any, domain: Mapping[str, Any], names: Sequence[str]) -> sa.Subquery:
    """The values that occur more than once, and how often: columns `names` and ``times``."""
    import sqlalchemy as sa

    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in names]
    query = sa.select(*columns, sa.func.count().label("times")).select_from(_rows(engine, domain))
    if len(names) == 1:
        query = query.where(columns[0].is_not(None))  # missing, not twice there
    return query.group_by(*columns).having(sa.func.count() > 1).subquery("duplicates")


def _rows(engine: Any, domain: Mapping[str, Any]) -> Any:
    import sqlalchemy as sa

    selectable = engine.get_domain_records(dict(domain))
    return selectable.subquery("checked") if isinstance(selectable, sa.Select) else selectable


def _count(engine: Any, duplicates: sa.Subquery, names: Sequence[str]) -> int:
    import sqlalchemy as sa

    return int(engine.execute_query(sa.select(sa.func.sum(duplicates.c.times))).scalar() or 0)


def _values(engine: Any, duplicates: sa.Subquery, names: Sequence[str]) -> list[Any]:
    """A few of the values, the most frequent first: plain ones of one column, rows of several."""
    import sqlalchemy as sa

    columns = [duplicates.c[name] for name in names]
    query = sa.select(*columns).order_by(duplicates.c.times.desc(), *columns).limit(_VALUES_SHOWN)
    found = engine.execute_query(query).fetchall()
    return [row[0] for row in found] if len(names) == 1 else [dict(zip(names, row, strict=True)) for row in found]


def failing_rows(batch: Any, expectation: Any, key: Sequence[str]) -> str:
    """A SELECT of `key` over the rows that break an expectation, within its row condition; literals and all.

    :param batch: Great Expectations' batch over the table.
    :param expectation: built, with its row condition; one that is about single rows.
    :raises ConfigurationError: it isn't about rows (a mean, a row count), or about rows together (uniqueness).
    """
    import sqlalchemy as sa
    from great_expectations.validator.metric_configuration import MetricConfiguration

    metric = getattr(expectation, "map_metric", None)
    kind = expectation.configuration.type
    if metric is None or metric in _UNIQUE:
        raise ConfigurationError(f"{kind} isn't about single rows: no row can be quarantined by it.")
    kwargs = expectation.configuration.kwargs
    domain = {name: kwargs[name] for name in expectation.domain_keys if kwargs.get(name) is not None}
    values = {name: kwargs.get(name) for name in expectation.args_keys if name not in domain}
    # Great Expectations has no public way to a condition; its own index query forgets the row condition.
    validator = batch._create_validator(result_format={"result_format": "BOOLEAN_ONLY"})._wrapped_validator
    condition, compute, accessor = validator.metrics_calculator.get_metric(
        MetricConfiguration(f"{metric}.condition", domain, values)
    )
    rows = _rows(validator.execution_engine, {**compute, **accessor})
    keys: list[sa.ColumnClause[Any]] = [sa.column(name) for name in key]
    query = sa.select(*keys).select_from(rows).where(condition)
    dialect = validator.execution_engine.engine.dialect
    return str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
