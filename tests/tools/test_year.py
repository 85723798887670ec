"""tools/year.py and tools/year_page.py: when the nights are, how a year goes on, and what its page says of odd ones."""

from __future__ import annotations

import csv
import datetime
import json
import re
import urllib.error
from pathlib import Path
from typing import Any

import pytest

import demo
import year
import year_page
from environments import SetUpError

DAY = datetime.date.fromisoformat


def measured(value: float | None, room: float = 0.01) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - room, "high": value + room}


def night(decision: str, serving: str | None, before: str | None = "1", why: str = "because") -> dict[str, Any]:
    return {
        "run_id": "r",
        "decision": decision,
        "reasons": [why],
        "metric": "roc_auc",
        "rows": 6000,
        "challenger": measured(0.72),
        "champion": measured(0.71),
        "difference": measured(0.01),
        "champion_before": before,
        "version": serving if decision == "promoted" else None,
        "serving": serving,
        "seconds": 100.0,
        "report": "reports/night.html",
    }


def period(  # noqa: PLR0917
    first: str,
    last: str,
    of: dict[str, Any],
    served: tuple[str, float | None] | None = None,
    first_version: float | None = None,
    level: str = "ok",
) -> dict[str, Any]:
    found: dict[str, Any] = {"first_day": first, "partition": last, "night": of, "seconds": 120.0, "done": True}
    if served is not None:
        version, value = served
        difference = None if value is None or first_version is None else value - first_version
        found["scores"] = {
            "rows": 100,
            "labelled": 0 if value is None else 100,
            "served": {"version": version, **measured(value)},
            "first": {"version": "1", **measured(first_version)},
            "difference": measured(difference, 0.005),
        }
        reading = {
            "signal": "prediction_drift",
            "feature": "prediction",
            "metric": "normalized_wasserstein_distance",
            "value": 0.6 if level == "alarm" else 0.1,
            "reference": 0.02,
            "threshold": 0.5,
            "level": level,
            "rows": 6000,
            "says": "prediction: moved <far>",
        }
        found["monitor"] = {
            "level": level,
            "counts": {"alarm": int(level == "alarm")},
            "findings": [] if level == "ok" else [reading],
            "readings": [reading],
            "alarm": last if level == "alarm" else None,
            "page": "reports/monitoring.html",
        }
    return found


def record(*periods: dict[str, Any]) -> dict[str, Any]:
    return {"model": "flight_delay", "every": 28, "trials": 4, "periods": list(periods)}


FIRST = period("2013-01-01", "2013-03-08", night("promoted", "1", None))
GOOD_YEAR = record(
    FIRST,
    period("2013-03-09", "2013-04-05", night("promoted", "2"), ("1", 0.70), 0.70),
    period(
        "2013-04-06", "2013-05-03", night("rejected", "2", "2", "0.59 is below the floor"), ("2", 0.73), 0.69, "alarm"
    )
    | {"drift_night": night("rejected", "2", "2")},
    period("2013-05-04", "2013-05-31", night("promoted", "3", "2"), ("2", 0.74), 0.69),
    period("2013-06-01", "2013-06-28", night("rolled back", "3", "3"), ("3", 0.75), 0.70),
)


# when


@pytest.mark.parametrize(
    ("last", "every", "expected"),
    [
        (None, 100, ["2013-03-08", "2013-06-16", "2013-09-24", "2013-12-31"]),
        ("2013-11-15", 28, ["2013-12-13", "2013-12-31"]),
        ("2013-12-13", 14, ["2013-12-27"]),  # the four days left are too few
        ("2013-12-20", 28, ["2013-12-31"]),
        ("2013-12-27", 14, []),
        ("2013-12-31", 28, []),
    ],
)
def test_the_nights_are_so_many_days_apart_and_the_last_is_the_years(
    last: str | None, every: int, expected: list[str]
) -> None:
    assert [str(day) for day in year.nights(DAY(last) if last else None, every)] == expected


def test_every_day_of_the_year_is_in_one_period() -> None:
    for every in (7, 14, 28, 31):
        nights = year.nights(None, every)
        assert nights == sorted(set(nights)) and nights[0] == demo.FIRST_PARTITION
        assert (demo.LAST_PARTITION - nights[-1]).days < year.SHORTEST


# Airflow, and going on


class Airflow:
    """What the year sees of Airflow: runs that end as they are told, and what they leave."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str], str] = {}
        self.started: list[tuple[str, str, dict[str, Any]]] = []
        self.left: dict[tuple[str, str, str], Any] = {}
        self.fails: set[str] = set()
        self.drift = False
        self.paused: dict[str, bool] = {}

    def wait_for_dag(self, dag: str) -> None:
        pass

    def pause(self, dag: str, paused: bool) -> bool:
        before = self.paused.get(dag, True)
        self.paused[dag] = paused
        return before

    def trigger(self, dag: str, conf: dict[str, Any], run_id: str, run_after: str) -> str:
        assert run_after == f"{DAY(conf['partition']) + datetime.timedelta(days=1)}T06:00:00Z"
        self.started.append((dag, run_id, conf))
        self.states[dag, run_id] = "failed" if dag in self.fails else "success"
        day = conf["partition"]
        if dag == year.NIGHT:
            self._night(run_id, "none" if day == "2013-03-08" else "1", "1")
        elif dag == year.RESCORING:
            self.left[dag, run_id, "comparison"] = {
                "metric": "roc_auc",
                "rows": 90,
                "unlabelled": 10,
                "version": {"version": conf["version"], **measured(0.7)},
                "against": {"version": conf["against"], **measured(0.7)},
                "difference": measured(0.0),
            }
        elif dag == year.MONITORING:
            path = f"azureml://datastores/lake/paths/monitoring/{day}"
            self.left[dag, run_id, "verdict"] = {
                "level": "alarm" if self.drift else "ok",
                "counts": {"alarm": int(self.drift)},
                "findings": [],
                "page": f"https://lake/lake/reports/{day}/monitoring.html",
            }
            self.left[dag, run_id, "monitor"] = {"outputs": {"readings": path}}
            if self.drift:
                self.left[dag, run_id, "alarm"] = {"emitted_for": day}
                self.states[year.NIGHT, f"drift__{day}"] = "success"
                self._night(f"drift__{day}", "1", "2")
        return run_id

    def _night(self, run_id: str, before: str, serving: str) -> None:
        promoted = before == "none" or run_id.startswith("drift")
        left = {
            "evaluate.verdict": {"promote": promoted, "reasons": ["so"], "metric": "roc_auc"},
            "evaluate.champion": {"version": before},
            "register.model": {"version": serving} if promoted else None,
            "write_back.champion": {"version": serving},
            "report": {"path": f"reports/flight_delay/2013-03-08/{run_id}.html"},
        }
        self.left |= {(year.NIGHT, run_id, task): value for task, value in left.items()}

    def run_state(self, dag: str, run_id: str) -> str:
        try:
            return self.states[dag, run_id]
        except KeyError:
            raise urllib.error.HTTPError("", 404, "not found", None, None) from None  # type: ignore[arg-type]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        return [{"dag_run_id": run} for of, run in reversed(self.states) if of == dag]

    def task_instances(self, dag: str, run_id: str) -> list[dict[str, Any]]:
        state = self.states[dag, run_id]
        return [{"task_id": "train.job", "state": state, "duration": 2.0, "try_number": 1}]

    def xcom(self, dag: str, run_id: str, task: str) -> Any:
        return self.left.get((dag, run_id, task))

    def log(self, *arguments: Any) -> list[str]:
        return ["SqlFailed: a.sql, line 3"]


class Clock:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, words: str) -> None:
        self.lines.append(words)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    landed: list[tuple[str, str]] = []

    def fetch(files: dict[str, Path]) -> None:
        for target in files.values():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text('{"readings": []}')

    monkeypatch.setattr(year, "FOLDER", tmp_path / "year")
    monkeypatch.setattr(year, "_POLL", 0)
    monkeypatch.setattr(demo, "PROGRESS", tmp_path / "demo.json")
    monkeypatch.setattr(demo, "land", lambda days: landed.append((str(days[0]), str(days[1]))))
    monkeypatch.setattr(demo, "fetch", fetch)
    monkeypatch.setattr(year.local_azure, "connection", lambda: {"container": "lake"})
    return {"folder": tmp_path / "year", "landed": landed}


def play(airflow: Airflow, every: int = 150) -> tuple[year.Record, Clock]:
    opened, clock = year.open_record(every, None), Clock()
    year.Year(opened, airflow, clock).go_on()  # type: ignore[arg-type]
    return opened, clock


def test_a_year_lands_trains_scores_and_watches_period_by_period(world: dict[str, Any]) -> None:
    airflow = Airflow()
    opened, clock = play(airflow)
    assert world["landed"] == [
        ("2013-01-01", "2013-03-08"),
        ("2013-03-09", "2013-08-05"),
        ("2013-08-06", "2013-12-31"),
    ]
    second = [(dag, conf) for dag, run, conf in airflow.started if run == "year__2013-08-05"]
    days = {"backfill_from": "2013-03-09", "partition": "2013-08-05"}
    assert second == [
        (year.NIGHT, {**days, "max_trials": year.TRIALS}),
        (year.RESCORING, {**days, "version": "1", "against": "1"}),
        (year.MONITORING, {"partition": "2013-08-05"}),
    ]
    assert [dag for dag, run, _ in airflow.started if run == "year__2013-03-08"] == [year.NIGHT]
    assert len(clock.lines) == 3 and clock.lines[1].startswith("2013-08-05  rejected  |  its days: champion v1 0.700")
    assert set(airflow.paused.values()) == {True}, "schedules wait for files that nobody lands"
    assert year.is_over(opened) and demo.last_partition() == DAY("2013-12-31")
    assert {file.name for file in world["folder"].iterdir()} >= {"year.html", "year.json", "year.csv", "record.json"}


def test_an_interrupted_year_goes_on_and_starts_nothing_twice(world: dict[str, Any], monkeypatch: Any) -> None:
    airflow = Airflow()
    follow = year.Year._follow
    calls = iter(range(100))

    def interrupted(self: year.Year, dag: str, run_id: str) -> str:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return follow(self, dag, run_id)

    monkeypatch.setattr(year.Year, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        play(airflow)
    assert (airflow.started[-1][0], airflow.started[-1][1]) == (year.RESCORING, "year__2013-08-05")
    assert year.Record(world["folder"] / "record.json").unfinished() is not None
    play(airflow)
    names = [(dag, run) for dag, run, _ in airflow.started]
    assert len(names) == len(set(names)) == 7
    assert len(world["landed"]) == 3


def test_a_failed_run_stops_the_year_in_words_and_is_tried_anew(world: dict[str, Any]) -> None:
    airflow = Airflow()
    airflow.fails = {year.MONITORING}
    with pytest.raises(
        SetUpError, match=r"endpoint_monitoring_flight_delay, run year__2013-08-05, failed(.|\n)*SqlFailed"
    ):
        play(airflow)
    airflow.fails = set()
    play(airflow)
    again = [run for dag, run, _ in airflow.started if dag == year.MONITORING]
    assert again == ["year__2013-08-05", "year__2013-08-05__2", "year__2013-12-31"]


def test_the_night_that_an_alarm_starts_is_waited_for_and_decides(world: dict[str, Any]) -> None:
    airflow = Airflow()
    airflow.drift = True
    opened, clock = play(airflow)
    assert [period["drift_night"]["run_id"] for period in opened.periods[1:]] == [
        "drift__2013-08-05",
        "drift__2013-12-31",
    ]
    assert opened.serving() == "2" and opened.first_version() == "1"
    assert "night after the alarm: promoted v2" in clock.lines[1]


def test_a_night_after_an_alarm_that_failed_is_tried_anew(world: dict[str, Any], monkeypatch: Any) -> None:
    airflow = Airflow()
    airflow.drift = True
    night = airflow._night

    def failing(run_id: str, before: str, serving: str) -> None:
        night(run_id, before, serving)
        if run_id == "drift__2013-08-05":
            airflow.states[year.NIGHT, run_id] = "failed"

    monkeypatch.setattr(airflow, "_night", failing)
    opened, _ = play(airflow)
    assert [period["drift_night"]["run_id"] for period in opened.periods[1:]] == [
        "drift__2013-08-05__2",
        "drift__2013-12-31",
    ]


def test_a_night_that_was_rolled_back_has_decided(world: dict[str, Any]) -> None:
    airflow = Airflow()
    play(airflow)
    airflow.states[year.NIGHT, "r"] = "failed"
    airflow._night("r", "1", "")
    airflow.task_instances = lambda dag, run: [  # type: ignore[method-assign]
        {"task_id": "roll_out.traffic", "state": "failed", "duration": None, "try_number": 1}
    ]
    found = year.Year(year.open_record(None, None), airflow, Clock())._night("r", "failed")  # type: ignore[arg-type]
    assert (found["decision"], found["serving"]) == ("rolled back", "1")


def test_nights_of_the_demo_are_not_mixed_with_a_years(world: dict[str, Any]) -> None:
    demo.PROGRESS.write_text(json.dumps({"partition": "2013-03-09", "run_id": "r"}))
    with pytest.raises(SetUpError, match=r"--year --reset"):
        year.open_record(None, None)


def test_the_announcement_says_how_long(world: dict[str, Any]) -> None:
    assert "a night every 28 days, 12 to go; about 24 minutes" in year.announcement(year.open_record(None, None))


@pytest.mark.parametrize(
    "wrong", [["--every", "7"], ["--year", "--every", "0"], ["--year", "--partition", "2013-05-01"]]
)
def test_what_belongs_to_a_year_is_refused_elsewhere(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        demo.parse(wrong)


# the page


def test_the_interval_of_the_mean_is_students() -> None:
    mean = year_page.Mean.of([0.02, 0.04, 0.03])
    assert mean is not None and mean.value == pytest.approx(0.03)
    assert mean.low is not None and mean.value - mean.low == pytest.approx(4.303 * 0.01 / 3**0.5, abs=1e-6)
    assert year_page.Mean.of([]) is None
    alone = year_page.Mean.of([0.02])
    assert alone is not None and alone.low is None


def test_a_good_year_is_called_one_with_its_figures() -> None:
    says, why = year_page.headline(GOOD_YEAR)
    assert says.startswith(
        "It can't be told whether retraining paid: ROC AUC 0.730 on average over 4 periods, 0.695 for"
    )
    longer = record(*GOOD_YEAR["periods"], *GOOD_YEAR["periods"][3:], *GOOD_YEAR["periods"][3:])
    says, why = year_page.headline(longer)
    assert says.startswith("Retraining paid") and "+0.043, 95 % interval +0.028 to +0.057" in says
    assert "The gap is widest from 4 to 31 May (+0.050)" in why
    found = year_page.summarise(GOOD_YEAR)
    assert {name: found[name] for name in ("nights", "promoted", "rejected", "rolled_back", "alarms")} == {
        "nights": 6,
        "promoted": 3,
        "rejected": 2,
        "rolled_back": 1,
        "alarms": 1,
    }


def test_the_page_says_how_far_apart_the_nights_were() -> None:
    assert "Nights from 8 March to 28 June, 28 days apart" in year_page.render(GOOD_YEAR)
    short = period("2013-06-29", "2013-07-10", night("promoted", "4", "3"), ("3", 0.7), 0.7)
    far = period("2013-06-29", "2013-08-30", night("promoted", "4", "3"), ("3", 0.7), 0.7)
    for more, apart in (([short], "28 days"), ([far], "28 to 63 days"), ([short, far], "12 to 51 days")):
        assert f", {apart} apart" in year_page.render(record(*GOOD_YEAR["periods"], *more))


def test_a_year_in_which_retraining_cost_says_so() -> None:
    worse = record(FIRST, *(period("2013-04-06", "2013-05-03", night("promoted", "2"), ("2", 0.65), 0.70),) * 3)
    worse["periods"][1] = period("2013-03-09", "2013-04-05", night("promoted", "2"), ("2", 0.66), 0.70)
    says, why = year_page.headline(worse)
    assert says.startswith("Retraining cost") and "In 3 of 3 periods it was the better one" in why


@pytest.mark.parametrize(
    ("periods", "says", "why"),
    [
        ([period("2013-01-01", "2013-03-08", night("rejected", None, None))], "nobody served", "1 challenger was"),
        (
            [FIRST, *(period("2013-03-09", "2013-04-05", night("rejected", "1", why="too bad"), ("1", 0.7), 0.7),) * 2],
            "Nothing replaced the first model: ROC AUC 0.700",
            "2 challengers were not promoted. The last one: too bad",
        ),
        ([FIRST], "No period has been scored", "just begun"),
        (
            [FIRST, period("2013-03-09", "2013-04-05", night("promoted", "2"), ("1", None), None)],
            "No period has been scored",
            "Outcomes are missing",
        ),
        (
            [FIRST, period("2013-04-06", "2013-05-03", night("promoted", "2"), ("2", 0.72), 0.7)],
            "One period says little",
            "widest",
        ),
        ([], "nobody served", "No night"),
    ],
    ids=["all rejected", "no promotion", "first night", "labels missing", "one period", "nothing"],
)
def test_odd_years_have_a_page_that_says_what_they_are(periods: list[Any], says: str, why: str) -> None:
    content = record(*periods)
    told = year_page.headline(content)
    assert says in told[0] and why in told[1]
    html = year_page.render(content)
    assert html.count("<html") == 1 and "None" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    assert "nan" not in html.lower().replace("finance", "")


def test_the_page_is_one_file_that_links_what_it_is_based_on() -> None:
    html = year_page.render(GOOD_YEAR)
    assert "<script" not in html and "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert html.count('href="reports/night.html"') == 6 and html.count('href="reports/monitoring.html"') == 4
    assert "moved &lt;far&gt;" in html and "<far>" not in html
    for sign in ("promoted v3", "rejected", "rolled back", "after the alarm", "below the floor"):
        assert sign in html


def test_a_period_without_outcomes_breaks_the_lines() -> None:
    gap = record(
        *GOOD_YEAR["periods"][:3],
        period("2013-05-04", "2013-05-31", night("promoted", "3", "2"), ("2", None), None),
        GOOD_YEAR["periods"][4],
    )
    whole, broken = (year_page.render(one).count("<polyline") for one in (GOOD_YEAR, gap))
    assert (whole, broken) == (2, 4)


def test_the_table_has_a_row_a_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(year, "FOLDER", tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(GOOD_YEAR))
    year.write_pages(year.Record(tmp_path / "record.json"))
    rows = list(csv.DictReader((tmp_path / "year.csv").open()))
    assert [row["decision"] for row in rows] == ["promoted", "promoted", "rejected", "promoted", "rolled back"]
    assert rows[2]["served_value"] == "0.73" and rows[2]["drift_night"] == "rejected" and rows[0]["served_value"] == ""
    assert json.loads((tmp_path / "year.json").read_text())["summary"]["promoted"] == 3
