"""The night's page: what it shows, that it stands alone, and that a night which stopped half-way has one, too."""

from __future__ import annotations

import math
import re
import xml.dom.minidom
from datetime import UTC, datetime
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest

import azflow.report
from azflow import charts, night_page, pages
from azflow.report import RunReportOperator, collect
from azflow.specs import Night
from night_example import night

VOID = {"meta", "line", "circle", "rect", "polyline", "br"}


class Reader(HTMLParser):
    """Checks that every element is closed, and keeps text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.words.append(data.strip())


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def said(html: str) -> str:
    return " ".join(read(html).words)


def test_the_page_shows_what_was_decided_and_on_what() -> None:
    shown = said(night_page.render(night()))
    for piece in (
        "flight_delay: promoted",
        "0.7151",
        "+0.0058",
        "within the 0.0100 it may lose",
        "the same 6,341 hold-out rows",
        "Trials: 8",
        "1. LightGBM",
        "121 rows (15.8 %) break it",
        "seen 51%",
        "764 predictions of 2013-03-09",
        "prepare.airport_congestion",
        "azureml:flight_delay:2",
        "3 min 48 s",
        "Beside the last runs",
        "AUC_weighted 0.7184 (higher is better): 2nd of 8",
        "parameter algorithm: LightGBM -> XGBoostClassifier",
        "0.0217 node hours in all",
    ):
        assert piece in shown, piece


def test_the_page_stands_alone() -> None:
    reader = read(night_page.render(night()))
    assert not [
        value for tag, name, value in reader.attributes if name in ("src", "srcset") or tag in ("script", "link")
    ]
    assert "@import" not in pages.STYLE and "url(" not in pages.STYLE
    assert all(value.startswith(("http://", "https://")) for _, name, value in reader.attributes if name == "href")
    assert "prefers-color-scheme: dark" in pages.STYLE


def test_what_the_data_says_is_escaped() -> None:
    report = night()
    report["model"] = "<script>alert(1)</script>"
    report["left"]["train.job"]["children"][0]["algorithm"] = '"><img src=x onerror=alert(1)>'
    report["left"]["register.model"]["path"] = "<b>"
    report["steps"][0]["url"] = "javascript:alert(1)"
    html = night_page.render(report)
    assert "<script" not in html and "<img" not in html and "javascript:" not in html
    read(html)


def test_what_made_no_asset_is_no_version() -> None:
    html = night_page.render(night())
    assert html.count("Data asset") == len(["train", "holdout"])
    assert ">None<" not in html
    assert "53,741 rows, 3 columns, schema 9c1f9c1f9c1f9c1f" in html


def test_plots_are_well_formed() -> None:
    html = night_page.render(night())
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(plots) == 9
    for plot in plots:
        xml.dom.minidom.parseString(plot)


def failed_at(task: str) -> dict[str, Any]:
    """A night whose task failed: nothing after it ran."""
    report: dict[str, Any] = night()
    index = next(i for i, step in enumerate(report["steps"]) if step["task"] == task)
    report["steps"][index]["state"] = "failed"
    for step in report["steps"][index + 1 :]:
        step.update(state="upstream_failed", seconds=0.0)
    for later in [step["task"] for step in report["steps"][index:]]:
        report["left"].pop(later, None)
    return report


@pytest.mark.parametrize("task", [step["task"] for step in night()["steps"]])
def test_a_night_that_failed_anywhere_has_a_page(task: str) -> None:
    report = failed_at(task)
    if not task.startswith("write_back"):
        report["quality"] = [] if task.startswith(("arrival", "prepare")) else report["quality"]
    shown = said(night_page.render(report))
    assert f"flight_delay: failed at {task}" in shown
    assert night_page.summarise(report)["outcome"] == f"failed at {task}"


def test_a_night_of_which_nothing_is_known_has_a_page() -> None:
    report = {**night(), "steps": [], "quality": [], "left": {}, "airflow": ""}
    assert "no verdict" in said(night_page.render(report))
    assert night_page.summarise(report)["rows_written"] is None


def test_a_challenger_that_lost_keeps_the_champion() -> None:
    report = night()
    report["left"]["evaluate.verdict"] |= {"promote": False, "reasons": ["roc_auc is below the floor"]}
    for task in ("register.model", "roll_out.deploy", "roll_out.traffic"):
        del report["left"][task]
        next(step for step in report["steps"] if step["task"] == task).update(state="skipped", seconds=0.0)
    shown = said(night_page.render(report))
    assert "flight_delay: kept the champion" in shown
    assert "Skipped: register.model, roll_out.deploy, roll_out.traffic" in shown
    assert "Roll-out" not in shown
    summary = night_page.summarise(report)
    assert (summary["promoted"], summary["model_version"], summary["rows_written"]) == (False, "1", 764)


def test_a_run_without_predecessors_or_a_shared_metric_has_a_page() -> None:
    report = night()
    found = report["left"]["evaluate.compare"]
    found |= {"metric": "", "summary": ["no known metric to compare by"], "unusual": True}
    shown = said(night_page.render(report))
    assert "no known metric to compare by" in shown and "unusual" in shown
    found["runs"] = found["runs"][:1]
    assert "Beside the last runs" not in said(night_page.render(report))


def test_a_job_that_failed_was_paid_for() -> None:
    report = failed_at("train.job") | {"spent": {"train.job": {"name": "j", "node_seconds": 1800.0}}}
    shown = said(night_page.render(report))
    assert "0.5 node hours in all" in shown and "the limits" not in shown
    limits = {"max_node_hours_per_job": 0.25, "max_node_hours_per_night": None}
    line = "0.5 node hours taken, spend.max_node_hours_per_job is 0.25"
    report["spent"]["train.job"]["spend"] = {"limits": limits, "night_node_seconds": None, "over": [line]}
    shown = said(night_page.render(report))
    assert "above the limits node hours allowed: 0.25 per job" in shown and line in shown
    assert night_page.summarise(report)["node_hours"] == 0.5


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_trend_is_well_formed(count: int) -> None:
    points = [charts.Point(f"run <{index}>", 0.5, this=index == count - 1) for index in range(count)]
    plot = charts.trend(points, label="x")
    assert plot.count("<circle") == count
    xml.dom.minidom.parseString(plot)


def test_a_first_night_has_no_champion_to_show() -> None:
    report = night()
    verdict = report["left"]["evaluate.verdict"]
    verdict |= {"champion": None, "difference": None, "champion_version": None, "champion_calibration": None}
    verdict["slices"] = [{**one, "champion": None} for one in verdict["slices"]]
    report["left"]["roll_out.traffic"] |= {
        "champion": None,
        "stages": report["left"]["roll_out.traffic"]["stages"][-1:],
    }
    shown = said(night_page.render(report))
    assert "Champion, version" not in shown
    assert "nobody served before" in shown


def test_a_roll_out_that_was_taken_back_shows_why_and_the_log() -> None:
    report = night()
    done = report["left"]["roll_out.traffic"]
    done |= {"problem": "at 10 %, 5 of 80 requests failed <b>", "log": ["loaded", "KeyError: 'temp' <b>"]}
    done["stages"].insert(1, done["stages"][0] | {"name": "shadow", "requests": 200})
    done["stages"][2] |= {"decision": "roll_back", "observed": {"requests": 1301, "failed": 60, "p95_ms": 44.0}}
    page = night_page.render(report)
    assert "taken back" in page and "at 10 %, 5 of 80 requests failed &lt;b&gt;" in page
    assert "KeyError: 'temp' &lt;b&gt;" in page.replace("&#x27;", "'")
    assert "1,301 requests, 60 failed, p95 44 ms" in page and "shadow, before traffic" in page


def test_who_approved_is_shown() -> None:
    report = night()
    assert "approved</" not in night_page.render(report)  # the gate alone
    report["left"]["approve"] = {"approved": True, "by": "kim <x>", "at": "2013-03-10T08:30:00+00:00"}
    assert "by kim &lt;x&gt; (2013-03-10 08:30 UTC)" in night_page.render(report)
    report["left"]["approve"] = {"approved": False, "by": "timeout", "at": ""}
    assert "nobody answered in time" in night_page.render(report)


def test_a_person_may_say_no() -> None:
    report = night()
    report["left"]["approve"] = {"approved": False, "by": "ann"}
    assert night_page.outcome(report) == "not approved"


@pytest.mark.parametrize(
    ("left", "rows"),
    [
        ({"columns": ["model_version", "Rows"], "rows": [["1", 700], ["2", 64]]}, 764),
        (
            {
                "columns": [],
                "rows": [],
                "batches": [{"counts": [{"affected": 12}, {"rows": 99}]}, {"counts": [{"affected": 40}]}],
            },
            12,
        ),
        ({}, None),
    ],
)
def test_rows_written_are_counted_by_the_last_select_else_by_the_load(left: dict[str, Any], rows: int | None) -> None:
    assert night_page.rows_written({"left": {"write_back.table": left}}) == rows


def test_trials_are_ranked_by_the_metric_they_share() -> None:
    report = night()
    children = report["left"]["train.job"]["children"]
    for index, child in enumerate(children):
        child["metrics"] = {"log_loss": 0.3 + index / 100}
    children[0]["metrics"] = {"log_loss": 0.9}
    shown = said(night_page.render(report))
    assert shown.index("0.3100") < shown.index("0.9000")  # less is better


# plots


def night_of_minutes() -> dict[str, Any]:
    """A night whose model predicts minutes, by a pipeline, and has no endpoint."""
    report = night()
    verdict = report["left"]["evaluate.verdict"]
    curve = [{"predicted": -12.0, "observed": -10.0, "rows": 600}, {"predicted": 25.0, "observed": 60.0, "rows": 600}]
    verdict |= {
        "metric": "mean_absolute_error",
        "lower_is_better": True,
        "unit": "minutes",
        "challenger": {"value": 29.85, "low": 28.8, "high": 30.94},
        "champion": {"value": 30.30, "low": 29.26, "high": 31.39},
        "difference": {"value": -0.45, "low": -0.51, "high": -0.37},
        "baselines": [{"name": "median of the training days", "value": 31.67, "low": 30.6, "high": 32.8}],
        "challenger_calibration": curve,
        "champion_calibration": curve,
        "slices": [],
    }
    trials = [
        {"name": f"t{number}", "title": f"trial {number}", "parameters": {"objective": objective, "num_leaves": "31"},
         "metrics": {"root_mean_squared_error": 40.0, "mean_absolute_error": error}, "seconds": 6.0}
        for number, (objective, error) in enumerate([("huber", 25.3), ("regression_l1", 24.9)])
    ]  # fmt: skip
    sweep = {"title": "sweep", "name": "s", "status": "Completed", "primary_metric": "mean_absolute_error"}
    report["left"]["train.job"] |= {
        "type": "Pipeline",
        "children": [
            {"title": "prepare", "name": "p", "status": "Completed", "seconds": 8.0, "reused": True, "metrics": {}},
            {**sweep, "seconds": 30.0, "metrics": {}, "children": trials, "best_child": "t1"},
        ],
    }
    for task in ("roll_out.deploy", "roll_out.traffic"):
        del report["left"][task]
    report["steps"] = [step for step in report["steps"] if not step["task"].startswith("roll_out")]
    return report


def test_a_model_of_minutes_is_shown_in_minutes() -> None:
    html = night_page.render(night_of_minutes())
    shown = said(html)
    for piece in (
        "mean_absolute_error, in minutes, on the same 6,341 hold-out rows",
        "lower is better",
        "-0.4500 [-0.510, -0.370]",
        "to the left, the challenger is better",
        "median of the training days",
        "Do the predictions mean what they say?",
        "predicted, minutes",
        "Steps: 2",
        "reused",
        "Trials of sweep: 2",
        "1. regression_l1, 31",
    ):
        assert piece in shown, piece
    assert "Roll-out" not in shown and "%" not in shown.partition("Slices")[0].partition("Do the predictions")[2][:200]
    for plot in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        xml.dom.minidom.parseString(plot)


@pytest.mark.parametrize(
    ("low", "value", "high", "tone"), [(-0.6, -0.45, -0.3, "good"), (0.3, 0.45, 0.6, "bad"), (-0.1, 0.2, 0.5, "accent")]
)
def test_less_error_is_good_where_the_interval_says_so(low: float, value: float, high: float, tone: str) -> None:
    report = night_of_minutes()
    report["left"]["evaluate.verdict"]["difference"] |= {"low": low, "value": value, "high": high}
    html = night_page.render(report)
    plot = html[html.index("difference of the metric") :]
    assert f'class="{tone}"' in plot[: plot.index("</svg>")]


def test_ticks_are_round_and_inside() -> None:
    scale = charts.Scale(0.683, 0.741, 0, 100)
    assert scale.ticks() == [0.69, 0.7, 0.71, 0.72, 0.73, 0.74]
    assert charts.Scale(0, 240, 0, 100).ticks() == [0, 50, 100, 150, 200]


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [0.0], [-1.0, 1.0], [float("nan"), 1.0]])
def test_a_scale_holds_any_values(values: list[float]) -> None:
    scale = charts.Scale.over(values, 10, 20)
    assert scale.low < scale.high
    assert all(10 <= scale(value) <= 20 for value in values if math.isfinite(value))
    assert scale.ticks()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (True, "yes"),
        ("<b>", "&lt;b&gt;"),
        (pages.Html("<b>"), "<b>"),
    ],
)
def test_values_as_text(value: object, shown: str) -> None:
    assert shown in pages.text(value)


# collecting


class FakeTaskInstance:
    """What a task may ask Airflow about its run."""

    dag_id, run_id, task_id = "d", "r", "report"

    def __init__(self, xcoms: dict[tuple[str, str], Any]) -> None:
        self.xcoms = xcoms

    def get_task_breadcrumbs(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return [
            {"task_id": "quality.x", "state": "failed", "duration": 4.0, "operator": "X"},
            {"task_id": "prepare.a", "state": "success", "duration": 2.5, "operator": "X"},
        ]

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
        return {
            "r": {"prepare.a": "success", "quality.x": "failed", "train.job": "upstream_failed", "report": "running"}
        }

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.xcoms.get((task_ids, key))


def context(logical_date: datetime | None = None) -> dict[str, Any]:
    names = ["prepare.a", "quality.x", "train.job", "report"]
    tasks = [
        SimpleNamespace(task_id=name, upstream_task_ids={names[index - 1]} if index else set())
        for index, name in enumerate(names)
    ]
    xcoms = {
        ("prepare.a", "return_value"): {"rows_affected": 3},
        ("quality.x", "quality"): {"suite": "x"},
        ("prepare.a", "azflow_run"): {"id": "1", "url": "https://run"},
        ("train.job", "spend"): {"name": "j", "node_seconds": 7.0},
    }
    return {
        "ti": FakeTaskInstance(xcoms),
        "dag": SimpleNamespace(topological_sort=lambda: tasks),
        "dag_run": SimpleNamespace(logical_date=logical_date),
        "night": Night.of("d", "r", datetime(2013, 3, 8, tzinfo=UTC).date()),
    }


def test_what_the_tasks_left_is_collected() -> None:
    asked = context()
    asked["dag"].topological_sort().append(SimpleNamespace(task_id="roll_out.traffic", upstream_task_ids=set()))
    asked["ti"].xcoms[("roll_out.traffic", "evidence")] = {"problem": "at 10 %"}
    assert collect(asked, "flight_delay")["left"]["roll_out.traffic"] == {"problem": "at 10 %"}
    report = collect(context(), "flight_delay")
    assert [(step["task"], step["state"], step["start"], step["seconds"]) for step in report["steps"]] == [
        ("prepare.a", "success", 0.0, 2.5),
        ("quality.x", "failed", 2.5, 4.0),
        ("train.job", "upstream_failed", 6.5, 0.0),
    ]
    assert report["measured"] is False
    assert report["steps"][0]["url"] == "https://run"
    assert report["left"] == {"prepare.a": {"rows_affected": 3}}
    assert report["quality"] == [{"suite": "x"}]
    assert report["spent"] == {"train.job": {"name": "j", "node_seconds": 7.0}}


def test_starts_are_measured_where_airflow_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(dag_id: str, task_id: str, before: datetime) -> tuple[str, datetime | None] | None:
        seconds = {"prepare.a": 10, "quality.x": 17}.get(task_id)
        return ("r", datetime(2013, 3, 8, 1, 0, seconds, tzinfo=UTC)) if seconds else ("another", None)

    monkeypatch.setattr(azflow.report, "_ask_start", ask)
    report = collect(context(datetime(2013, 3, 8, tzinfo=UTC)), "flight_delay")
    assert report["measured"] is True
    assert [step["start"] for step in report["steps"]] == [0.0, 7.0, 11.0]


def test_the_operator_writes_the_page_and_sums_up(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, str] = {}

    def publish_page(connection: Any, path: str, html: str) -> str:
        written[path] = html
        return f"https://lake/{path}"

    monkeypatch.setattr(azflow.report, "publish_page", publish_page)
    monkeypatch.setattr(azflow.report, "collect", lambda context, model: night())
    operator = RunReportOperator(task_id="report", model="flight_delay")
    made = Night.of("d", "manual__2013-03-10T02:00:00+00:00", datetime(2013, 3, 9, tzinfo=UTC).date())
    result = operator.execute({"night": made})  # type: ignore[typeddict-unknown-key]
    (path,) = written
    assert path == "reports/flight_delay/2013-03-09/manual__2013-03-10T02-00-00-00-00.html"
    assert result["url"] == operator.run_url == f"https://lake/{path}"
    assert result["summary"] == {
        "outcome": "promoted",
        "promoted": True,
        "metric": "roc_auc",
        "challenger": {"value": 0.7151, "low": 0.6998, "high": 0.73},
        "champion": {"value": 0.7093, "low": 0.6939, "high": 0.7243},
        "difference": {"value": 0.0058, "low": -0.0011, "high": 0.0127},
        "model_version": "2",
        "rows_written": 764,
        "traffic": {"blue-7f3a": 0, "green-91c2": 100},
        "node_hours": 0.0217,
        "seconds": 227.8,
    }
