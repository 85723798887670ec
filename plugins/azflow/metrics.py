"""The metrics a gate, a leaderboard or a comparison may be about, and which way each is better. Pure.

Names are Azure Machine Learning's
(https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml) and, where an evaluation job of the
user's reckons itself, scikit-learn's.
"""

from __future__ import annotations

HIGHER_IS_BETTER = frozenset(
    {
        "AUC_macro",
        "AUC_micro",
        "AUC_weighted",
        "accuracy",
        "average_precision",
        "average_precision_score_macro",
        "average_precision_score_micro",
        "average_precision_score_weighted",
        "balanced_accuracy",
        "explained_variance",
        "f1",
        "f1_score_macro",
        "f1_score_micro",
        "f1_score_weighted",
        "matthews_correlation",
        "norm_macro_recall",
        "precision_score_macro",
        "precision_score_micro",
        "precision_score_weighted",
        "r2_score",
        "recall_score_macro",
        "recall_score_micro",
        "recall_score_weighted",
        "roc_auc",
        "spearman_correlation",
        "weighted_accuracy",
    }
)
LOWER_IS_BETTER = frozenset(
    {
        "brier_score",
        "log_loss",
        "mean_absolute_error",
        "mean_absolute_percentage_error",
        "mean_squared_error",
        "median_absolute_error",
        "normalized_mean_absolute_error",
        "normalized_median_absolute_error",
        "normalized_root_mean_squared_error",
        "normalized_root_mean_squared_log_error",
        "root_mean_squared_error",
        "root_mean_squared_log_error",
    }
)


def lower_is_better(metric: str) -> bool:
    """Whether less of `metric` is better.

    :raises ValueError: it is none of those above; the message names them.
    """
    if metric in LOWER_IS_BETTER:
        return True
    if metric in HIGHER_IS_BETTER:
        return False
    raise ValueError(
        f"no metric is called {metric!r}; where higher is better: {', '.join(sorted(HIGHER_IS_BETTER))}; "
        f"where lower is better: {', '.join(sorted(LOWER_IS_BETTER))}"
    )


def check_bounds(metric: str, floor: float | None, ceiling: float | None, min_skill: float | None) -> None:
    """Refuse bounds that don't fit: `floor` is for metrics where higher is better, the others for the rest.

    :raises ValueError: names what to give instead.
    """
    if lower_is_better(metric):
        if floor is not None:
            raise ValueError(
                f"{metric} is better when lower: give a ceiling, the most it may be, in place of the floor"
            )
        if ceiling is None and min_skill is None:
            raise ValueError(f"{metric} needs a ceiling (the most it may be) or a min_skill")
        return
    if ceiling is not None:
        raise ValueError(f"{metric} is better when higher: give a floor, the least it may be, in place of the ceiling")
    if min_skill is not None:
        raise ValueError(f"min_skill is a share of an error, and {metric} is better when higher: give a floor alone")
    if floor is None:
        raise ValueError(f"{metric} needs a floor, the least it may be")


def shown(value: float, *, signed: bool = False) -> str:
    """A metric's value for a person: four decimals, two from 10 on."""
    sign = "+" if signed else ""
    return format(value, f"{sign}.4f" if abs(value) < 10 else f"{sign}.2f")  # noqa: PLR2004
