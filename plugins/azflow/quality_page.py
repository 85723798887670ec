"""What a suite found: as values, in words, and as a page. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from azflow import pages

EXAMPLES = 5
_OWN_SEVERITY = {"critical": "block", "warning": "warn", "info": "warn"}


def severity(expectation: Mapping[str, Any]) -> str:
    """What a failure means: ``block``, ``quarantine`` or ``warn`` (or a word the file got wrong)."""
    own = _OWN_SEVERITY.get(str(expectation.get("severity") or "critical"), "block")
    return str((expectation.get("meta") or {}).get("severity", own))


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
        "quarantined": 0,
        "seconds": round(seconds, 2),
        "report": "",
        "data_docs": "",
        "quarantine_table": "",
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
    "expect_column_values_to_be_unique": "{column} is unique",
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
    return (
        f"{words} (at least {100 * mostly:.4g} % of the rows)"
        if isinstance(mostly, int | float) and mostly < 1
        else words
    )


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
        count = result["unexpected_count"]
        parts.append(f"{count:,} rows{share} break it" if count > 1 else f"1 row{share} breaks it")
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

#: How a failure is shown, by its severity.
BADGES: dict[str, tuple[str, pages.Tone]] = {
    "block": ("failed", "bad"),
    "quarantine": ("quarantined", "warn"),
    "warn": ("warning", "warn"),
}
_MEANS = {"block": "stops the run", "quarantine": "takes its rows out", "warn": "is reported"}


def results_table(summary: Mapping[str, Any]) -> pages.Html:
    """Every expectation, failures first."""

    def outcome(result: Mapping[str, Any]) -> pages.Html:
        if result["success"]:
            return pages.badge("ok", "good")
        return pages.badge(*BADGES[result["severity"]])

    ordered = sorted(summary["results"], key=lambda result: (result["success"], list(BADGES).index(result["severity"])))
    return pages.table(
        ["", "Column", "Expectation", "Found", "Rows that break it", "A failure"],
        [
            (
                outcome(result),
                pages.code(result["column"]) if result["column"] else "",
                result["says"],
                result["found"],
                result["unexpected_count"],
                _MEANS[result["severity"]],
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
                (summary["quarantined"] or None, "rows quarantined"),
                (rows, "rows"),
                (f"{summary['seconds']:.1f} s", "in the SQL pool"),
            ]
        ),
        pages.section("Expectations", "", results_table(summary)),
        _documents(summary),
        footer="Checked by Great Expectations, as SQL in the pool.",
    )


def _documents(summary: Mapping[str, Any]) -> pages.Html:
    """Where to read on: the quarantine's table, Great Expectations' own page."""
    parts = []
    if summary["quarantined"]:
        parts.append(
            pages.text(
                f"{summary['quarantined']:,} rows were moved to {summary['quarantine_table']}, with the rule that each "
                "broke; the night goes on without them."
            )
        )
    if summary["data_docs"]:
        parts.append(pages.link("Great Expectations' Data Docs of this check", summary["data_docs"]))
    return pages.section("More", "", *parts) if parts else pages.join([])
