"""A frame as time series without gaps: frequency, aggregation, missing periods and values, series that are too short.

https://learn.microsoft.com/azure/machine-learning/concept-automl-forecasting-methods#how-automl-uses-your-data
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from localazure_compute.automl.errors import SearchError
from localazure_compute.automl.forecasting.forecaster import Clock, Encoder, Series, identifier
from localazure_compute.automl.guardrails import Guardrails

_AGGREGATES = ("sum", "mean", "min", "max")
_OFF_GRID = 0.05  # the share of points beside the grid that are left out without a fuss
_SEASONS = {"s": (60,), "min": (60, 1440), "h": (24, 168), "D": (7,), "B": (5,), "W": (52,), "M": (12,), "Q": (4,)}
_CORRELATED = 0.3
_CYCLES = 3
_MOST_LAGS = 5


@dataclass
class Prepared:
    """What the search works on. `keys` are identifiers -> number; `dropped` are series too short to learn from."""

    series: list[Series]
    clock: Clock
    encoder: Encoder
    keys: dict[tuple[str, ...], int]
    dropped: list[tuple[str, ...]]
    dates: list[str]


def prepare(
    frame: pd.DataFrame, target: str, settings: dict[str, Any], featurization: dict[str, Any], guardrails: Guardrails
) -> Prepared:
    """The training data as series. SearchError names what can't be made one."""
    time, ids = settings["time"], settings["ids"]
    _check(frame, target, settings)
    frame = frame.assign(**{time: _times(frame[time], time), target: pd.to_numeric(frame[target], errors="coerce")})
    keys = frame[ids].apply(lambda row: tuple(identifier(v) for v in row), axis=1) if ids else None
    frame["__key"] = pd.Series([()] * len(frame), index=frame.index) if keys is None else keys
    frequency = settings["frequency"] or _detected(frame, time)
    try:
        clock = Clock(frequency, frame[time].min())
    except ValueError as error:
        raise SearchError(f"frequency '{frequency}': {error}.") from error
    fills = _fills(frame, featurization)
    frame, dates = _with_features(frame, target, settings, featurization)
    frame = _aggregated(frame, target, settings, clock, guardrails)
    known = frame[[name for name in frame.columns if name not in (target, time, "__key", "__ordinal", *ids)]]
    numeric = [name for name in known.columns if _numeric(known[name], featurization, name)]
    categorical = [name for name in known.columns if name not in numeric]
    constants = {name: fill for name, fill in fills.items() if fill != "ffill"}
    forward = [name for name, fill in fills.items() if fill == "ffill" and name in known]
    encoder = Encoder(numeric, categorical).fit(frame, constants)
    made: list[Series] = []
    numbers: dict[tuple[str, ...], int] = {}
    missing = 0
    for key, rows in frame.groupby("__key", sort=True):
        series, gaps = _one(len(made), rows, target, encoder, fill=constants.get(target), forward=forward)
        missing += gaps
        numbers[key] = series.number
        made.append(series)
    state, words = ("Done", f"{missing} missing periods or values were filled.") if missing else ("Passed", "None.")
    guardrails.add("Missing periods and target values", state, words)  # type: ignore[arg-type]
    return Prepared(made, clock, encoder, numbers, [], dates)


def without_short(prepared: Prepared, needed: int, handling: str, guardrails: Guardrails) -> Prepared:
    """The series that are long enough; short ones are padded or left out, as asked. SearchError if none is left.

    https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-forecast#short-series-handling
    """
    short = [each for each in prepared.series if len(each.y) < needed]
    if not short:
        guardrails.add("Short series handling", "Passed", f"Every series has the {needed} periods needed.")
        return prepared
    names = {number: key for key, number in prepared.keys.items()}
    every = len(short) == len(prepared.series)
    if handling == "none" or (handling == "drop" and every):
        worst = min(short, key=lambda each: len(each.y))
        raise SearchError(
            f"{len(short)} of {len(prepared.series)} time series are too short: {needed} periods are needed for the "
            f"horizon, lags and folds; {', '.join(names[worst.number]) or 'the series'} has {len(worst.y)}. Lower "
            "forecast_horizon, target_lags or n_cross_validations, or set short_series_handling_config."
        )
    if handling == "pad" or every:
        rng = np.random.default_rng(0)
        made = [_padded(each, needed, rng) if len(each.y) < needed else each for each in prepared.series]
        guardrails.add("Short series handling", "Done", f"{len(short)} series were padded to {needed} periods.")
        return Prepared(made, prepared.clock, prepared.encoder, prepared.keys, [], prepared.dates)
    left_out = {each.number for each in short}
    made, keys = [], {}
    for each in prepared.series:
        if each.number not in left_out:
            keys[names[each.number]] = len(made)
            made.append(Series(len(made), each.start, each.y, each.x))
    dropped = [names[number] for number in sorted(left_out)]
    shown = "; ".join(", ".join(key) for key in dropped[:5])
    guardrails.add("Short series handling", "Done", f"{len(dropped)} short series were left out: {shown}.")
    return Prepared(made, prepared.clock, prepared.encoder, keys, dropped, prepared.dates)


def seasons(prepared: Prepared, asked: Any, horizon: int) -> list[int]:
    """Season lengths in periods, the decisive one first; [1] for none. `asked` is a number or "auto"."""
    if isinstance(asked, int):
        return [asked]
    longest = max(prepared.series, key=lambda each: len(each.y)).y
    unit = _unit(prepared.clock)
    candidates = [each for each in _SEASONS.get(unit, ()) if len(longest) >= _CYCLES * each]
    found = {each: _correlation(longest, each) for each in candidates}
    kept = [each for each in candidates if found[each] > _CORRELATED]
    return sorted(kept, key=lambda each: -found[each]) or [1]


def lags(prepared: Prepared, asked: Any, needed: int) -> list[int]:
    """Target lags: those asked for, or for "auto" the ones with the largest significant partial autocorrelation."""
    if asked is None:
        return []
    if asked != "auto":
        return sorted({int(each) for each in asked})
    from statsmodels.tsa.stattools import pacf

    longest = max(prepared.series, key=lambda each: len(each.y)).y[-5000:]
    most = min(48, len(longest) // 4 - 1, max(1, len(longest) - needed))
    if most < 1 or np.ptp(longest) == 0:
        return [1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = np.abs(pacf(longest, nlags=most, method="ywm")[1:])
    significant = [place for place in np.argsort(-values) if values[place] > 1.96 / np.sqrt(len(longest))]
    return sorted(int(place) + 1 for place in significant[:_MOST_LAGS]) or [1]


def _check(frame: pd.DataFrame, target: str, settings: dict[str, Any]) -> None:
    named = [settings["time"], *settings["ids"], *settings["unknown_ahead"]]
    if missing := [name for name in named if name not in frame]:
        have = ", ".join(map(str, frame.columns))
        raise SearchError(
            f"forecasting names the column(s) {', '.join(missing)}, which the data doesn't have ({have})."
        )
    if target in named:
        raise SearchError(f"The target '{target}' can't be the time or an identifier as well.")
    numbers = pd.to_numeric(frame[target], errors="coerce")
    if (wrong := numbers.isna() & frame[target].notna()).any():
        raise SearchError(f"The target '{target}' must be numeric; it has {frame[target][wrong].iloc[0]!r}.")
    for name in settings["ids"]:
        if frame[name].isna().any():
            raise SearchError(f"The identifier {name} has {int(frame[name].isna().sum())} missing values.")


def _times(column: pd.Series, name: str) -> pd.Series:
    try:
        times = pd.to_datetime(column)
    except (ValueError, TypeError) as error:
        raise SearchError(f"time_column_name '{name}' isn't a time: {error}") from error
    if times.isna().any():
        raise SearchError(f"time_column_name '{name}' has {int(times.isna().sum())} empty values.")
    if getattr(times.dt, "tz", None) is not None:
        times = times.dt.tz_convert("UTC").dt.tz_localize(None)
    return times


def _detected(frame: pd.DataFrame, time: str) -> str:
    """The frequency that most of the distances in the series have."""
    distances = pd.concat(
        [rows[time].drop_duplicates().sort_values().diff().dropna() for _, rows in frame.groupby("__key")]
    )
    if distances.empty:
        raise SearchError("The frequency can't be detected: no series has two points in time. Set frequency.")
    common = distances.mode().iloc[0]
    days = common / pd.Timedelta(days=1)
    first = frame[time].dt.is_month_start.all()
    for low, high, start, end in ((28, 31, "MS", "ME"), (90, 92, "QS", "QE"), (365, 366, "YS", "YE")):
        if low <= days <= high:
            return start if first or not frame[time].dt.is_month_end.all() else end
    if days == 1 and not frame[time].dt.dayofweek.isin([5, 6]).any() and (distances.dt.days == 3).any():  # noqa: PLR2004
        return "B"
    return f"{int(common.total_seconds())}s"


def _with_features(
    frame: pd.DataFrame, target: str, settings: dict[str, Any], featurization: dict[str, Any]
) -> tuple[pd.DataFrame, list[str]]:
    """Without the columns that are ignored, constant or times; those are named."""
    purposes = featurization.get("columns") or {}
    if missing := [name for name in purposes if name not in frame]:
        raise SearchError(f"featurization names the column(s) {', '.join(missing)}, which the data doesn't have.")
    dates = []
    for name in list(frame.columns):
        if name in (target, settings["time"], "__key", *settings["ids"]):
            continue
        ignored = purposes.get(name) == "Ignore" or (name not in purposes and frame[name].nunique(dropna=False) < 2)  # noqa: PLR2004
        if pd.api.types.is_datetime64_any_dtype(frame[name]) or purposes.get(name) == "DateTime":
            dates.append(name)
            ignored = True
        if ignored:
            frame = frame.drop(columns=name)
    return frame, dates


def _numeric(column: pd.Series, featurization: dict[str, Any], name: str) -> bool:
    purpose = (featurization.get("columns") or {}).get(name)
    return purpose == "Numeric" or (purpose is None and pd.api.types.is_numeric_dtype(column))


def _fills(frame: pd.DataFrame, featurization: dict[str, Any]) -> dict[str, Any]:
    """What the Imputer's parameters say: column -> the constant, "ffill", or what numbers are replaced by."""
    found: dict[str, Any] = {}
    for entry in (featurization.get("parameters") or {}).get("Imputer", []):
        given = entry.get("parameters") or {}
        for name in entry.get("fields") or []:
            if name not in frame:
                raise SearchError(f"featurization names the column {name}, which the data doesn't have.")
            strategy = given.get("strategy")
            numbers = pd.to_numeric(frame[name], errors="coerce")
            if strategy == "constant":
                found[name] = float(given.get("fill_value") or 0.0)
            elif strategy == "most_frequent":
                found[name] = float(numbers.mode().iloc[0]) if numbers.notna().any() else 0.0
            elif strategy in ("mean", "median"):
                found[name] = float(getattr(numbers, strategy)())
            else:
                found[name] = "ffill"
    return found


def _aggregated(
    frame: pd.DataFrame, target: str, settings: dict[str, Any], clock: Clock, guardrails: Guardrails
) -> pd.DataFrame:
    """One row a period of each series, with its number in `__ordinal`."""
    time = settings["time"]
    frame["__ordinal"] = clock.ordinals(frame[time])
    place = ["__key", "__ordinal"]
    if function := settings["aggregation"]:
        made = frame.groupby(place)[target].agg(lambda y: getattr(y, function)() if y.notna().any() else np.nan)
        parts = [made.rename(target)]
        for name in frame.columns:
            if name in (target, time, *place, *settings["ids"]):
                continue
            groups = frame.groupby(place)[name]
            if pd.api.types.is_numeric_dtype(frame[name]):
                parts.append(groups.mean())
            else:
                parts.append(groups.agg(lambda v: v.mode().iloc[0] if v.notna().any() else None))
        guardrails.add("Time series aggregation", "Done", f"The target is the {function} over {clock.frequency}.")
        return pd.concat(parts, axis=1).reset_index()
    beside = clock.off_grid(frame[time])
    if beside.mean() > _OFF_GRID:
        raise SearchError(
            f"{beside.sum()} of {len(frame)} points in time lie beside the frequency {clock.frequency}, for example "
            f"{frame[time][beside].iloc[0]}. Set frequency, and target_aggregate_function to aggregate to it."
        )
    if beside.any():
        guardrails.add("Frequency detection", "Done", f"{beside.sum()} points beside {clock.frequency} were left out.")
        frame = frame[~beside]
    else:
        guardrails.add("Frequency detection", "Passed", f"All points are aligned with {clock.frequency}.")
    twice = frame.duplicated(place)
    if twice.any():
        row = frame[twice].iloc[0]
        raise SearchError(
            f"{time} {row[time]} stands {'twice' if twice.sum() == 1 else 'more than once'} in the series "
            f"{', '.join(row['__key']) or '(the only one)'}. Name the columns that tell the series apart in "
            "time_series_id_column_names, or set frequency and target_aggregate_function."
        )
    guardrails.add("Time series ID detection", "Passed", "No time stands twice in a series.")
    return frame


def _one(
    number: int, rows: pd.DataFrame, target: str, encoder: Encoder, *, fill: float | None, forward: list[str]
) -> tuple[Series, int]:
    """A series without gaps, and how many periods and values were filled: with `fill`, or what came before."""
    rows = rows.sort_values("__ordinal").set_index("__ordinal")
    first, last = int(rows.index[0]), int(rows.index[-1])
    whole = rows.reindex(range(first, last + 1))
    y = whole[target]
    gaps = int(y.isna().sum())
    if fill is not None:
        y = y.fillna(fill)
    filled = y.ffill().bfill().fillna(0.0)
    whole[forward] = whole[forward].ffill()
    return Series(number, first, filled.to_numpy(dtype=float), encoder.transform(whole)), gaps


def _padded(series: Series, needed: int, rng: np.random.Generator) -> Series:
    """With noise before its beginning, as the service pads."""
    more = needed - len(series.y)
    y = np.concatenate([rng.normal(0, 1, more), series.y])
    x = np.concatenate([np.zeros((more, series.x.shape[1])), series.x])
    return Series(series.number, series.start - more, y, x)


def _unit(clock: Clock) -> str:
    if clock.period is not None:
        return clock.period[0]
    seconds = clock.step / 1e9
    for unit, length in (("W", 7 * 86400), ("D", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds == length:
            return unit
    return ""


def _correlation(y: np.ndarray, lag: int) -> float:
    """The autocorrelation of what is left after a line is taken out."""
    places = np.arange(len(y))
    rest = y - np.polyval(np.polyfit(places, y, 1), places)
    return float(np.corrcoef(rest[lag:], rest[:-lag])[0, 1]) if np.ptp(rest) > 0 else 0.0


def longest_needed(horizon: int, folds: int, step: int, looks_back: Sequence[int], own_validation: bool) -> int:
    """Periods that a series needs.

    https://learn.microsoft.com/azure/machine-learning/concept-automl-forecasting-methods#data-length-requirements
    """
    back = max([0, *looks_back])
    return horizon + back + 1 if own_validation else 2 * horizon + (folds - 1) * step + back + 1
