"""`bin/demo --year`: 2013 night by night, with nothing but what a team has: files that arrive, DAG runs, the reports.

Each period, `every` days long, goes so:

1. The source lands its days. Nobody knows yet how its flights will be predicted: the champion is an earlier one.
2. The night of the period's last day builds its features (`backfill_from`), trains a challenger, judges, rolls out.
3. `rescoring_flight_delay` scores all days of the period with the version that served in them, writes those predictions
   back, and scores the same flights with the first version ever promoted: the model that nobody retrained.
4. `endpoint_monitoring_flight_delay` looks at the last week. An alarm makes Airflow start a night of its own.

What came of it is kept in var/year/record.json after every step, so that an interrupted year goes on where it was; DAG
runs have names made from the period's day, so that a run that was started is waited for and not started again.
"""

from __future__ import annotations

import csv
import datetime
import json
import time
import urllib.error
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import demo
import local_azure
import year_page
from airflow_components import AirflowApi
from environments import SetUpError

MODEL = demo.FIRST_MODEL
NIGHT, RESCORING, MONITORING, ON_DRIFT = (
    demo.dag_of(MODEL),
    f"rescoring_{MODEL}",
    f"endpoint_monitoring_{MODEL}",
    f"retraining_on_drift_{MODEL}",
)
FOLDER = demo.YEAR
EVERY = 28
#: Trials of a night's AutoML job, where model.yml's own eight would make the year twice as long.
TRIALS = 4
#: Minutes that a period takes on two idle cores.
MINUTES = 2
#: A rest of the year that is shorter has too few flights to compare two models on.
SHORTEST = 7
_DAY = datetime.timedelta(days=1)
_DRIFT_STARTS_WITHIN = 300.0
_POLL = 1.5


def nights(last: datetime.date | None, every: int, end: datetime.date = demo.LAST_PARTITION) -> list[datetime.date]:
    """The days whose nights are still to come after the one of `last`; the year's last night is `end`, unless the
    one before is less than a week ago."""
    day = demo.FIRST_PARTITION if last is None else last + every * _DAY
    found = []
    while day <= end:
        found.append(day)
        day += every * _DAY
    before = found[-1] if found else last
    if before is not None and (end - before).days >= SHORTEST:
        found.append(end)
    return found


class Record:
    """What has happened so far: ``{"model", "every", "trials", "periods": [period]}``, written after every step.

    A period has ``first_day``, ``partition`` and, as far as it got, ``night``, ``scores``, ``monitor`` and
    ``drift_night``; `year_page` says what is in each.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"periods": []}

    @property
    def periods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["periods"]
        return found

    def save(self) -> None:
        """In one piece: a year that is killed while it writes loses no step."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(self.content, indent=1))
        beside.replace(self._path)

    def serving(self) -> str | None:
        """The version that serves after everything recorded; None before the first promotion."""
        for period in reversed(self.periods):
            for night in (period.get("drift_night"), period.get("night")):
                if night and night.get("serving"):
                    return str(night["serving"])
        return None

    def first_version(self) -> str | None:
        """The version that was promoted first: the one that is never retrained."""
        for period in self.periods:
            for night in (period.get("night"), period.get("drift_night")):
                if night and night["decision"] == "promoted":
                    return str(night["serving"])
        return None

    def unfinished(self) -> dict[str, Any] | None:
        """The period that was interrupted."""
        return self.periods[-1] if self.periods and not self.periods[-1].get("done") else None


class Year:
    """One replay: the record, Airflow, and a clock to talk with."""

    def __init__(self, record: Record, api: AirflowApi, clock: demo.Stopwatch) -> None:
        self._record, self._api, self._clock = record, api, clock
        #: When the period's seconds were counted last; they are those of all its steps, interruptions left out.
        self._since = 0.0

    def go_on(self) -> None:
        """To the end of the year.

        :raises SetUpError: a run failed that nothing can go on without.
        """
        dags = (NIGHT, RESCORING, MONITORING, ON_DRIFT)
        for dag in dags:
            self._api.wait_for_dag(dag)
        paused = {dag: self._api.pause(dag, False) for dag in dags}
        try:
            if (interrupted := self._record.unfinished()) is not None:
                self._period(interrupted)
            last = _date(self._record.periods[-1]["partition"]) if self._record.periods else None
            for partition in nights(last, self._record.content["every"]):
                first_day = demo.FIRST_DAY if last is None else last + _DAY
                period = {"first_day": first_day.isoformat(), "partition": partition.isoformat()}
                self._record.periods.append(period)
                self._record.save()
                self._period(period)
                last = partition
        finally:
            # Nobody lands tomorrow's files here: the schedules would wait for them.
            for dag, before in paused.items():
                self._api.pause(dag, before)

    def _period(self, period: dict[str, Any]) -> None:
        self._since = time.monotonic()
        first, last = _date(period["first_day"]), _date(period["partition"])
        if not period.get("landed"):
            demo.land((first, last))
            self._keep(period, "landed", True)
        if "night" not in period:
            conf = {"backfill_from": period["first_day"], "partition": period["partition"]}
            trials = {"max_trials": self._record.content["trials"]}
            self._keep(period, "night", self._night(*self._run(NIGHT, f"year__{last}", conf | trials)))
        served, never = period["night"]["champion_before"], self._record.first_version()
        if served is not None and never is not None:
            if "scores" not in period:
                self._keep(period, "scores", self._scores(first, last, served, never))
            if "monitor" not in period:
                self._keep(period, "earlier_drift_nights", period.get("earlier_drift_nights", self._drift_nights()))
                run_id, state = self._run(MONITORING, f"year__{last}", {"partition": period["partition"]})
                if state != "success":
                    self._failed(MONITORING, run_id)
                self._keep(period, "monitor", self._monitor(period["partition"], run_id))
            if period["monitor"]["alarm"] and "drift_night" not in period:
                self._keep(period, "drift_night", self._night(*self._started_by_drift(period)))
        self._keep(period, "done", True)
        demo.PROGRESS.write_text(json.dumps({"partition": period["partition"], "run_id": period["night"]["run_id"]}))
        self._clock.say(line(period))
        write_pages(self._record)

    def _keep(self, period: dict[str, Any], step: str, value: Any) -> None:
        now = time.monotonic()
        period[step] = value
        period["seconds"] = round(period.get("seconds", 0.0) + now - self._since, 1)
        self._since = now
        self._record.save()

    # Airflow

    def _run(self, dag: str, name: str, conf: Mapping[str, Any]) -> tuple[str, str]:
        """The run called `name`, or a further attempt at it after one that failed: started if it isn't there, followed
        to its end. Answers its id and its state."""
        attempt = 1
        while True:
            run_id = name if attempt == 1 else f"{name}__{attempt}"
            state = self._state(dag, run_id)
            if state != "failed":
                break
            attempt += 1
        if state is None:
            # By the clock of the year: what is filed by time (captured requests) must not be that of the replay.
            morning = _date(conf["partition"]) + _DAY
            self._api.trigger(dag, conf, run_id, f"{morning}T06:00:00Z")
        return run_id, self._follow(dag, run_id)

    def _state(self, dag: str, run_id: str) -> str | None:
        try:
            return self._api.run_state(dag, run_id)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _follow(self, dag: str, run_id: str) -> str:
        while (state := self._state(dag, run_id)) not in ("success", "failed"):
            time.sleep(_POLL)
        return str(state)

    def _drift_nights(self) -> list[str]:
        """The nights that alarms have started, newest first."""
        return [run_id for run in self._api.runs(NIGHT) if (run_id := str(run["dag_run_id"])).startswith("drift__")]

    def _started_by_drift(self, period: Mapping[str, Any]) -> tuple[str, str]:
        """The night that `retraining_on_drift` starts after an alarm, at its end."""
        deadline = time.monotonic() + _DRIFT_STARTS_WITHIN
        while time.monotonic() < deadline:
            if found := [run for run in self._drift_nights() if run not in period["earlier_drift_nights"]]:
                # The last is the alarm's own; others are further attempts at it.
                return self._run(NIGHT, found[-1], {"partition": period["partition"]})
            time.sleep(_POLL)
        raise SetUpError(
            f"the monitor raised an alarm, but {ON_DRIFT} started no night within {_DRIFT_STARTS_WITHIN:.0f} s; "
            f"see it in Airflow, then go on with `bin/demo --year`"
        )

    def _failed(self, dag: str, run_id: str) -> NoReturn:
        tasks = self._api.task_instances(dag, run_id)
        told = demo.failures(self._api, dag, run_id, tasks)
        raise SetUpError(f"{dag}, run {run_id}, failed; `bin/demo --year` tries it again.\n{told}")

    # what a run left

    def _night(self, run_id: str, state: str) -> dict[str, Any]:
        """What a night decided. One that was rolled back has decided too; any other failure ends the year for now."""
        tasks = {task["task_id"]: task for task in self._api.task_instances(NIGHT, run_id)}

        def left(task: str) -> dict[str, Any]:
            found = self._api.xcom(NIGHT, run_id, task)
            return found if isinstance(found, dict) else {}

        verdict, report = left("evaluate.verdict"), left("report")
        rolled_back = state == "failed" and tasks.get("roll_out.traffic", {}).get("state") == "failed"
        if state == "failed" and not rolled_back:
            self._failed(NIGHT, run_id)
        before = left("evaluate.champion").get("version")
        before = None if before in (None, "", "none") else str(before)
        reasons = [str(reason) for reason in verdict.get("reasons") or ()]
        if rolled_back:
            decision = "rolled back"
        elif not verdict.get("promote"):
            decision = "rejected"
        else:
            decision = "promoted" if left("approve").get("approved", True) else "not approved"
        page = ""
        if path := str(report.get("path", "")):
            page = f"reports/{Path(path).parent.name}-{Path(path).name}"
            demo.fetch({path: FOLDER / page})
        return {
            "run_id": run_id,
            "decision": decision,
            "reasons": reasons,
            "metric": verdict.get("metric", ""),
            "rows": verdict.get("rows"),
            **{name: verdict.get(name) for name in ("challenger", "champion", "difference")},
            "champion_before": before,
            "version": _text(left("register.model").get("version")),
            "serving": _text(left("write_back.champion").get("version")) or before,
            "seconds": round(sum(float(task["duration"] or 0) for task in tasks.values()), 1),
            "report": page,
        }

    def _scores(self, first: datetime.date, last: datetime.date, served: str, never: str) -> dict[str, Any]:
        """Writes the period's predictions back as the version that served would have, and compares it with `never`."""
        conf = {"backfill_from": first.isoformat(), "partition": last.isoformat(), "version": served, "against": never}
        run_id, state = self._run(RESCORING, f"year__{last}", conf)
        if state != "success":
            self._failed(RESCORING, run_id)
        found = self._api.xcom(RESCORING, run_id, "comparison")
        if not isinstance(found, dict):
            raise SetUpError(f"{RESCORING}, run {run_id}, left no comparison; see it in Airflow")
        return {
            "rows": found["rows"] + found["unlabelled"],
            "labelled": found["rows"],
            "served": found["version"],
            "first": found["against"],
            "difference": found["difference"],
            "problem": found.get("problem", ""),
        }

    def _monitor(self, partition: str, run_id: str) -> dict[str, Any]:
        """What the monitor read: the verdict, and every reading from the job's own file."""
        verdict = self._api.xcom(MONITORING, run_id, "verdict")
        job = self._api.xcom(MONITORING, run_id, "monitor")
        alarm = self._api.xcom(MONITORING, run_id, "alarm")
        page, readings = f"reports/{partition}-monitoring.html", FOLDER / "readings" / f"{partition}.json"
        _, _, path = job["outputs"]["readings"].partition("/paths/")
        files = {f"{path.rstrip('/')}/monitoring.json": readings}
        container = f"/{local_azure.connection()['container']}/"
        if container in str(verdict.get("page", "")):
            files[verdict["page"].partition(container)[2]] = FOLDER / page
        demo.fetch(files)
        kept = ("signal", "feature", "metric", "value", "reference", "threshold", "level", "rows", "says", "data")
        return {
            "run_id": run_id,
            "level": verdict["level"],
            "counts": verdict["counts"],
            "findings": verdict["findings"],
            "readings": [
                {name: reading[name] for name in kept if name in reading}
                for reading in json.loads(readings.read_text())["readings"]
            ],
            "alarm": alarm.get("emitted_for") if isinstance(alarm, dict) else None,
            "page": page if len(files) > 1 else "",
        }


def open_record(every: int | None, trials: int | None) -> Record:
    """The year so far, or a new one.

    :raises SetUpError: there are nights of another schedule.
    """
    record = Record(FOLDER / "record.json")
    if not record.periods:
        if demo.PROGRESS.exists():
            raise SetUpError(
                f"there are nights of `bin/demo` up to {demo.last_partition()}; a year begins with an empty lake: "
                "`bin/demo --year --reset` forgets them first"
            )
        record.content |= {"model": MODEL}
    record.content |= {
        "every": every or record.content.get("every", EVERY),
        "trials": trials or record.content.get("trials", TRIALS),
    }
    record.save()
    return record


def remaining(record: Record) -> int:
    """How many nights are to come, an interrupted one included."""
    periods = record.periods
    last = _date(periods[-1]["partition"]) if periods else None
    return len(nights(last, record.content["every"])) + (record.unfinished() is not None)


def is_over(record: Record) -> bool:
    """Whether all nights have been; the pages are written anew then."""
    if remaining(record):
        return False
    write_pages(record)
    return True


def announcement(record: Record) -> str:
    """What is going to happen, and how long it will take."""
    every, left = record.content["every"], remaining(record)
    done = len(record.periods) - (record.unfinished() is not None)
    if not left:
        return f"the year is over: {done} nights; its page is {FOLDER / 'year.html'} (`--reset` begins again)"
    so_far = f"{done} are there already, " if done else ""
    return (
        f"a year of {MODEL}: a night every {every} days, {so_far}{left} to go; about {left * MINUTES:.0f} minutes on "
        "two idle cores. Interrupt it when you like: `bin/demo --year` goes on"
    )


def line(period: Mapping[str, Any]) -> str:
    """What a period came to, in one line."""
    night, scores, monitor = period["night"], period.get("scores"), period.get("monitor")
    parts = [f"{period['partition']}  {said(night)}"]
    if scores is not None:
        values = [scores[name]["value"] for name in ("served", "first")]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        parts.append(f"its days: champion v{scores['served']['version']} {shown[0]}, never retrained {shown[1]}")
    if monitor is not None:
        alarms = [str(one["feature"] or one["metric"]) for one in monitor["findings"] if one["level"] == "alarm"]
        parts.append(f"monitor: {monitor['level']}" + (f" ({', '.join(alarms[:3])})" if alarms else ""))
    if "drift_night" in period:
        parts.append(f"night after the alarm: {said(period['drift_night'])}")
    return "  |  ".join([*parts, f"{period['seconds']:.0f} s"])


def said(night: Mapping[str, Any]) -> str:
    """A night's decision with its difference."""
    version = f" v{night['version']}" if night["decision"] == "promoted" and night["version"] else ""
    value = (night.get("difference") or {}).get("value")
    return f"{night['decision']}{version}" + (f" {value:+.3f}" if value is not None else "")


def write_pages(record: Record) -> None:
    """year.html, year.json and year.csv beside the record."""
    content = record.content
    (FOLDER / "year.html").write_text(year_page.render(content))
    (FOLDER / "year.json").write_text(json.dumps({"summary": year_page.summarise(content), **content}, indent=1))
    with (FOLDER / "year.csv").open("w", newline="") as file:
        csv.writer(file).writerows(year_page.table(content))


def _date(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)
