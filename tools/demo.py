"""`bin/demo` and `bin/up`: nights, or an open workbench, of azflow on this machine: real data, no account."""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import local_azure
from airflow_components import USER, AirflowApi, AirflowComponents, AirflowHome
from environments import AIRFLOW, LOCALAZURE, ROOT, SetUpError, prepare

#: The model whose night lands and stages the data; the others build on its features.
FIRST_MODEL = "flight_delay"
MODELS = (FIRST_MODEL, "arrival_delay", "hourly_departures")
FIRST_DAY, FIRST_PARTITION, LAST_PARTITION = (
    datetime.date(2013, 1, 1),
    datetime.date(2013, 3, 8),
    datetime.date(2013, 12, 31),
)
PROGRESS = ROOT / "var" / "demo.json"
REPORTS = ROOT / "var" / "reports"
YEAR = ROOT / "var" / "year"
FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")
MARKS = {
    "success": "ok",
    "failed": "FAILED",
    "skipped": "skipped",
    "upstream_failed": "not run",
    "running": "running",
    "deferred": "waiting",
}


class Stopwatch:
    """Prints each line with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def say(self, words: str) -> None:
        elapsed = time.monotonic() - self._started
        print(f"[{int(elapsed) // 60:2d}:{int(elapsed) % 60:02d}] {words}", flush=True)


def start_everything(clock: Stopwatch, airflow_port: int) -> tuple[AirflowHome, AirflowComponents]:
    """Environments, localazure and Airflow; returns while Airflow's components still start."""
    clock.say("environments: Airflow, localazure, compute (the first time they are installed; minutes, not seconds)")
    prepare(say=clock.say)
    clock.say("starting localazure (Entra, Azure ML, Synapse SQL and Spark, storage, AKS router) ...")
    local_azure.command("up", quiet=True)
    local = local_azure.connection()
    home = AirflowHome(
        ROOT / "var" / "airflow", airflow_port, local_azure.airflow_connection(local), Path(local["ca_bundle"])
    )
    components = AirflowComponents(home)
    clock.say(
        f"localazure is up at {local['api_url']}; "
        "starting Airflow (API server, scheduler, DAG processor, triggerer) ..."
    )
    if not components.running():
        components.migrate()
    components.start()
    return home, components


def stop_everything(clock: Stopwatch, airflow_port: int) -> None:
    """Ends what this checkout has running; on a checkout that was never set up, nothing."""
    if not LOCALAZURE.python.exists():
        return
    clock.say("stopping Airflow and localazure")
    AirflowComponents(AirflowHome(ROOT / "var" / "airflow", airflow_port, {}, Path())).stop()
    if local_azure.HOME.exists():
        local_azure.command("down", quiet=True)


def land(days: tuple[datetime.date, datetime.date], connection: Path = local_azure.HOME / "connection.json") -> str:
    """Runs the source simulator in Airflow's environment; answers its summary."""
    done = subprocess.run(
        [
            str(AIRFLOW.python),
            str(ROOT / "tools" / "source_simulator.py"),
            "--from",
            days[0].isoformat(),
            "--to",
            days[1].isoformat(),
            "--connection",
            str(connection),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SetUpError(f"landing the data failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def dag_of(model: str) -> str:
    """The id of a model's nightly DAG."""
    return f"nightly_retraining_{model}"


def last_partition() -> datetime.date | None:
    """The day of the last green night of `FIRST_MODEL`; None before the first."""
    if not PROGRESS.exists():
        return None
    return datetime.date.fromisoformat(json.loads(PROGRESS.read_text())["partition"])


def next_partition() -> datetime.date:
    last = last_partition()
    return FIRST_PARTITION if last is None else last + datetime.timedelta(days=1)


def watch(api: AirflowApi, dag: str, run_id: str, clock: Stopwatch) -> str:
    """Follows the run to its end, a line a task as it changes; answers the run's state."""
    shown: dict[str, str] = {}
    while True:
        state = api.run_state(dag, run_id)
        for task in sorted(api.task_instances(dag, run_id), key=lambda one: one["start_date"] or "~"):
            name, now = task["task_id"], task["state"] or "none"
            if shown.get(name) == now or now not in MARKS:
                continue
            if now != "running" or name not in shown:
                seconds = f"{task['duration']:6.1f} s" if now in FINISHED and task["duration"] else " " * 8
                clock.say(f"  {MARKS[now]:8} {seconds}  {name}")
            shown[name] = now
        if state in ("success", "failed"):
            return state
        time.sleep(0.7)


def table(rows: Iterable[Sequence[str]], heading: Sequence[str]) -> str:
    """Left-aligned columns under a heading."""
    lines = [tuple(heading), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def stages(tasks: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(stage, seconds, outcome), a stage being a task group; seconds from its first start to its last end."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for task in sorted(tasks, key=lambda one: one["start_date"] or "~"):
        grouped.setdefault(task["task_id"].split(".")[0], []).append(task)
    rows = []
    for stage, members in grouped.items():
        started = [_instant(one["start_date"]) for one in members if one["start_date"]]
        ended = [_instant(one["end_date"]) for one in members if one["end_date"]]
        seconds = f"{(max(ended) - min(started)).total_seconds():.1f}" if started and ended else ""
        states = {one["state"] for one in members}
        worst = next(
            (state for state in ("failed", "upstream_failed", "success", "skipped") if state in states), "none"
        )
        rows.append((stage, seconds, MARKS.get(worst, worst)))
    return rows


def _instant(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def failures(api: AirflowApi, dag: str, run_id: str, tasks: list[dict[str, Any]]) -> str:
    """What each failed task's log says at its end."""
    parts = []
    for task in tasks:
        if task["state"] == "failed":
            lines = "\n".join(api.log(dag, run_id, task["task_id"], task["try_number"])).splitlines()
            told = [
                line for line in lines if line.strip() and not line.startswith(("::", "Task failed with exception"))
            ][-20:]
            parts.append(f"{task['task_id']} failed:\n" + "\n".join("    " + line for line in told))
    return "\n\n".join(parts)


def nights(arguments: argparse.Namespace) -> list[tuple[str, datetime.date]]:
    """What to run: models and partitions, in order. A model that builds on another's features needs its night first.

    :raises SetUpError: there are no data for the day, or no features.
    """
    last, first = last_partition(), FIRST_MODEL
    asked = MODELS if arguments.all else (arguments.model,)
    needs_first = first in asked or last is None
    partition = arguments.partition or (next_partition() if needs_first else last)
    assert partition is not None
    if partition > LAST_PARTITION:
        raise SetUpError(f"the data ends on {LAST_PARTITION}; `bin/demo --reset` begins again")
    if not needs_first and last is not None and partition > last:
        raise SetUpError(
            f"{first} has built no features of {partition} yet, its last night was {last}: "
            f"`bin/demo --partition {partition}` first, or --all"
        )
    return [(model, partition) for model in dict.fromkeys([*([first] if needs_first else []), *asked])]


def one_night(
    model: str,
    partition: datetime.date,
    clock: Stopwatch,
    home: AirflowHome,
    components: AirflowComponents,
) -> bool:
    """Lands the data, runs the model's DAG by hand for one partition, shows the outcome; answers whether it ended
    green."""
    first = not PROGRESS.exists()
    if model == FIRST_MODEL:
        clock.say(f"landing flights, weather, planes and airports up to {partition} in the lake")
        clock.say("  " + land((FIRST_DAY if first else partition, partition)))
    components.wait_until_healthy()
    clock.say(f"Airflow is healthy at {home.url}")
    api, dag = AirflowApi(home), dag_of(model)
    api.wait_for_dag(dag)
    conf: dict[str, Any] = {"partition": partition.isoformat()}
    if model == FIRST_MODEL and first:
        conf["backfill_from"] = FIRST_DAY.isoformat()
    was_paused = api.pause(dag, False)
    run_id = api.trigger(dag, conf)
    clock.say(f"run {run_id} of {dag}, partition {partition}: {home.url}/dags/{dag}/runs/{run_id}")
    state = watch(api, dag, run_id, clock)
    # Nobody lands tomorrow's files here: the schedule would wait for them.
    api.pause(dag, was_paused)
    tasks = api.task_instances(dag, run_id)
    print()
    print(table(stages(tasks), ("stage", "seconds", "outcome")))
    if state != "success":
        print("\n" + failures(api, dag, run_id, tasks), file=sys.stderr)
        return False
    if model == FIRST_MODEL:
        PROGRESS.write_text(json.dumps({"partition": partition.isoformat(), "run_id": run_id}))
    print("\n" + outcome(api, home, dag, run_id) + "\n")
    return True


def outcome(api: AirflowApi, home: AirflowHome, dag: str, run_id: str) -> str:
    """Champion and challenger, traffic, rows and addresses, as the run's own report has them."""
    report = api.xcom(dag, run_id, "report") or {}
    summary, local = report.get("summary") or {}, local_azure.connection()
    rows, version = summary.get("rows_written"), summary.get("model_version")
    lines = [
        f"verdict     {summary.get('outcome', 'unknown')}",
        f"challenger  {summary.get('metric', 'metric')} {_measured(summary.get('challenger'))}",
        f"champion    {summary.get('metric', 'metric')} {_measured(summary.get('champion'))}",
        f"difference  {_measured(summary.get('difference'))}",
    ]
    rollout = api.xcom(dag, run_id, "roll_out.traffic")
    if dag == dag_of(FIRST_MODEL):
        traffic = ", ".join(f"{name} {share} %" for name, share in (summary.get("traffic") or {}).items())
        lines.append(f"traffic     {traffic or 'unchanged'}")
    lines.append(f"rows        {rows} predictions written back, model version {version}")
    if path := report.get("path"):
        lines.append(f"report      {fetch_report(path)}")
    lines += [
        f"Airflow     {home.url}  (user {USER}, password {home.password})",
        f"MLflow      {local['mlflow_url']}",
    ]
    if dag == dag_of(FIRST_MODEL):
        lines.append(f"endpoint    {(rollout or {}).get('scoring_uri', local['router_url'])}")
    lines.append(
        f"SQL pool    {local['sql_server']}, database {local['sql_database']} "
        "(log-in in var/localazure/connection.json)"
    )
    return "\n".join(lines)


def _measured(found: dict[str, Any] | None) -> str:
    if not found or found.get("value") is None:
        return "-"
    interval = f" [{found['low']:.4f}, {found['high']:.4f}]" if found.get("low") is not None else ""
    return f"{found['value']:.4f}{interval}"


def fetch_report(path: str) -> Path:
    """Copies a night's page from the lake to `var/reports`, where a browser can open it; answers where."""
    target = REPORTS / Path(path).name
    fetch({path: target})
    return target


def fetch(files: Mapping[str, Path]) -> None:
    """Copies files of the lake's container: path -> where to."""
    for target in files.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    code = (
        "import json, sys\n"
        "from azure.identity import ClientSecretCredential as C\n"
        "from azure.storage.blob import BlobServiceClient as B\n"
        "c = json.load(open(sys.argv[1]))\n"
        "i = C(c['tenant_id'], c['client_id'], c['client_secret'], "
        "authority=c['api_url'], disable_instance_discovery=True)\n"
        "b = B(c['storage_account_url'], credential=i).get_container_client(c['container'])\n"
        "for path, target in zip(sys.argv[2::2], sys.argv[3::2]):\n"
        "    open(target, 'wb').write(b.download_blob(path).readall())"
    )
    connection = local_azure.HOME / "connection.json"
    trusted = local_azure.connection()["ca_bundle"]
    subprocess.run(
        [
            str(AIRFLOW.python),
            "-c",
            code,
            str(connection),
            *(part for pair in files.items() for part in map(str, pair)),
        ],
        check=True,
        cwd=ROOT,
        env=local_azure.environment() | {"REQUESTS_CA_BUNDLE": trusted, "SSL_CERT_FILE": trusted},
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What bin/demo was asked for; bin/up and bin/down are `--up` and `--down` of it, with a help of their own."""
    parser = argparse.ArgumentParser(
        prog="bin/demo", description="Retrains real models through every stage, on this machine, for one night."
    )
    if command := next((one for one in ("up", "down") if f"--{one}" in arguments), None):
        parser.prog, parser.usage = f"bin/{command}", f"bin/{command} [-h] [--airflow-port PORT]"
        parser.description = {
            "up": "Starts localazure and Airflow, runs nothing, and leaves them running. bin/down ends them.",
            "down": "Ends what bin/up or bin/demo --keep left running; what is stored stays.",
        }[command]
        parser.add_argument(f"--{command}", action="store_true", help=argparse.SUPPRESS)
        parser.add_argument("--airflow-port", type=int, metavar="PORT", default=8080, help="of the UI (default: 8080)")
        parser.set_defaults(up=False, down=False, keep=False, reset=False, year=False)
        return parser.parse_args(arguments)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--model",
        choices=MODELS,
        default=FIRST_MODEL,
        help=f"whose night (default: %(default)s; the others run after {FIRST_MODEL}'s, on its features)",
    )
    which.add_argument("--all", action="store_true", help="every model's night, one after the other")
    which.add_argument(
        "--year",
        action="store_true",
        help=f"{FIRST_MODEL}'s year: a night every so many days from 2013-03-08 on, monitors, drift, versions, and a "
        "page that shows whether retraining paid; goes on where an interrupted year stopped",
    )
    parser.add_argument("--every", type=int, metavar="DAYS", help="with --year: from night to night (default: 28)")
    parser.add_argument("--trials", type=int, metavar="N", help="with --year: AutoML's trials a night (default: 4)")
    parser.add_argument("--keep", action="store_true", help="leave localazure and Airflow running afterwards")
    parser.add_argument(
        "--partition",
        type=datetime.date.fromisoformat,
        metavar="DAY",
        help="the day to run (default: the next one, from 2013-03-08)",
    )
    parser.add_argument(
        "--reset", action="store_true", help="forget every earlier night first, with all that is stored"
    )
    parser.add_argument("--airflow-port", type=int, metavar="PORT", default=8080, help="of the UI (default: 8080)")
    parser.set_defaults(up=False, down=False)
    found = parser.parse_args(arguments)
    if not found.year and (found.every or found.trials):
        parser.error("--every and --trials belong to --year")
    if any(number is not None and number < 1 for number in (found.every, found.trials)):
        parser.error("--every and --trials are at least 1")
    if found.year and found.partition:
        parser.error("--year chooses its nights itself: --every says how far apart; --partition doesn't go with it")
    return found


def main() -> int:
    arguments, clock = parse(sys.argv[1:]), Stopwatch()
    keep = arguments.keep or arguments.up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments.down or arguments.reset:
            stop_everything(clock, arguments.airflow_port)
            if arguments.down:
                return 0
            shutil.rmtree(local_azure.HOME, ignore_errors=True)
            shutil.rmtree(ROOT / "var" / "airflow", ignore_errors=True)
            PROGRESS.unlink(missing_ok=True)
            shutil.rmtree(YEAR, ignore_errors=True)
        # What bin/up started before goes on running afterwards.
        earlier = AirflowComponents(AirflowHome(ROOT / "var" / "airflow", arguments.airflow_port, {}, Path()))
        keep = keep or bool(earlier.running())
        if arguments.year:
            import year

            record = year.open_record(arguments.every, arguments.trials)
            clock.say(year.announcement(record))
            if year.is_over(record):
                return 0
        home, components = start_everything(clock, arguments.airflow_port)
        if arguments.up:
            components.wait_until_healthy()
            print(f"\nAirflow  {home.url}  (user {USER}, password {home.password})\nEnd it with bin/down.")
            return 0
        if arguments.year:
            components.wait_until_healthy()
            year.Year(record, AirflowApi(home), clock).go_on()
            return 0
        for model, partition in nights(arguments):
            green = one_night(model, partition, clock, home, components)
            clock.say(f"the night of {model} " + ("ended green" if green else "failed"))
            if not green:
                return 1
        return 0
    except SetUpError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    finally:
        if not keep and not arguments.down:
            stop_everything(clock, arguments.airflow_port)


if __name__ == "__main__":
    sys.exit(main())
