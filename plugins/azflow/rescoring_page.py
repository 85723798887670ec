"""Two versions on the same days as one page: how far they agree, and how each did where the outcome is known. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azflow import charts, pages
from azflow.metrics import shown
from azflow.pages import Html

_MOST_DAYS = 62


def render(
    rows: Sequence[Mapping[str, Any]], judged: Mapping[str, Any] | None, *, model: str, version: str, against: str
) -> str:
    """The page.

    :param rows: of ``ml.flight_version_comparison`` or its like: a row a day, and one without a day for all of them.
    :param judged: the XCom of `azflow.rescoring.VersionComparisonOperator`; None if nothing was judged.
    """
    days = [row for row in rows if row["flight_date"] is not None]
    whole = next((row for row in rows if row["flight_date"] is None), None)
    span = f"{days[0]['flight_date']} to {days[-1]['flight_date']}" if days else "no day"
    names = (f"version {version}", f"version {against}")
    return pages.page(
        f"{model}: {names[0]} beside {names[1]}",
        span,
        _facts(whole, len(days)),
        _judgement(judged),
        _by_day(days, names),
        _figures(days, whole, names),
    )


def _facts(whole: Mapping[str, Any] | None, days: int) -> Html:
    if whole is None:
        return pages.section("Nothing to compare", "No flight of these days was scored by both versions.")
    return pages.facts(
        [
            (whole["flights"], f"rows of {days} days, scored by both"),
            (f"{whole['agreement']:.1%}", "same decision"),
            (whole["mean_absolute_difference"], "mean absolute difference between their scores"),
            (whole["largest_difference"], "the largest difference"),
            (whole["labelled"], "rows whose outcome is known"),
        ]
    )


def _judgement(judged: Mapping[str, Any] | None) -> Html:
    """The evaluation's own interval: whether the difference could be chance."""
    if judged is None:
        return Html("")
    if judged.get("problem"):
        return pages.section("On the same rows", str(judged["problem"]))
    lines = [
        (f"version {judged[name]['version']}", *(judged[name][key] for key in ("value", "low", "high")))
        for name in ("version", "against")
    ]
    lines.append(("difference", *(judged["difference"][key] for key in ("value", "low", "high"))))
    intro = f"{judged['metric']} on {judged['rows']:,} rows, with its interval; of {judged['unlabelled']:,} more rows "
    table = pages.table(
        ("", str(judged["metric"]), "From", "To"),
        [(name, *(None if value is None else shown(value) for value in values)) for name, *values in lines],
        numbers=(1, 2, 3),
    )
    return pages.section("On the same rows", intro + "the outcome isn't known.", table)


def _by_day(days: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> Html:
    """AUC of both, day by day, as far as it is defined."""
    known = [row for row in days if row["roc_auc"] is not None and row["against_roc_auc"] is not None][-_MOST_DAYS:]
    if not known:
        return Html("")
    rows = [
        (
            str(row["flight_date"]),
            float(row["roc_auc"]),
            float(row["against_roc_auc"]),
            f"{row['roc_auc'] - row['against_roc_auc']:+.3f} on {row['labelled']:,}",
        )
        for row in known
    ]
    legend = pages.join([pages.badge(names[0], "accent"), " ", pages.badge(names[1], "plain"), " roc_auc of each day"])
    return pages.section("Day by day", legend, charts.dumbbells(rows, label="roc_auc by day"))


def _figures(days: Sequence[Mapping[str, Any]], whole: Mapping[str, Any] | None, names: tuple[str, str]) -> Html:
    first, second = names
    headers = (
        "Day", "Rows", "Same decision", "Mean difference", "Mean absolute", "Known", f"AUC, {first}", f"AUC, {second}",
        f"Brier, {first}", f"Brier, {second}",
    )  # fmt: skip
    keys = (
        "flights", "agreement", "mean_difference", "mean_absolute_difference", "labelled", "roc_auc", "against_roc_auc",
        "brier_score", "against_brier_score",
    )  # fmt: skip
    shown_rows = [*([("all", whole)] if whole is not None else []), *((str(row["flight_date"]), row) for row in days)]
    rows = [
        (Html(f'<span class="nowrap">{name}</span>'), *(_decimals(row[key]) for key in keys))
        for name, row in shown_rows
    ]
    return pages.section("Figures", "", pages.table(headers, rows, numbers=tuple(range(1, len(headers)))))


def _decimals(value: object) -> object:
    """Columns of shares and scores are read downwards: as many places in every row."""
    return f"{value:.4f}" if isinstance(value, float) else value
