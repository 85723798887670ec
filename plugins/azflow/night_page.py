"""The page of one night, from the plain dictionary that `report.collect` makes. Pure.

A part of the night that isn't there is left out; one that failed is shown as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from azflow import charts, pages, quality_page
from azflow.comparison import known_metrics
from azflow.metrics import LOWER_IS_BETTER, shown
from azflow.pages import Html, badge, code, join, link, section, table, text
from azflow.spend import hours

_TONES = {"success": "good", "failed": "bad", "upstream_failed": "warn", "skipped": "wait", "running": "accent"}
_SHOWN_TRIALS = 15
_SHOWN_SLICES = 16
_SHOWN_METRICS = 4
_SHOWN_PARAMETERS = 3


# what it comes to


def summarise(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a night, for a person who reads one line."""
    verdict = _left(report, "evaluate.verdict")
    measured = {name: verdict.get(name) for name in ("challenger", "champion", "difference")}
    return {
        "outcome": outcome(report),
        "promoted": verdict.get("promote"),
        "metric": verdict.get("metric"),
        **measured,
        "model_version": _left(report, "register.model").get("version") or verdict.get("champion_version"),
        "rows_written": rows_written(report),
        "traffic": _left(report, "roll_out.traffic").get("traffic"),
        "node_hours": round(sum(spent(report).values()) / 3600, 4),
        "seconds": wall_seconds(report),
    }


def outcome(report: Mapping[str, Any]) -> str:
    """`promoted`, `kept the champion`, or `failed at <task>`."""
    failed = [step["task"] for step in report["steps"] if step["state"] == "failed"]
    if failed:
        return f"failed at {failed[0]}"
    verdict = _left(report, "evaluate.verdict")
    if not verdict:
        return "no verdict"
    if not verdict.get("promote"):
        return "kept the champion"
    approved = _left(report, "approve").get("approved")
    return "not approved" if approved is False else "promoted"


def wall_seconds(report: Mapping[str, Any]) -> float:
    """From the first step's start to the last one's end."""
    return round(max((step["start"] + step["seconds"] for step in report["steps"]), default=0.0), 1)


def rows_written(report: Mapping[str, Any]) -> int | None:
    """Predictions of this partition: what the script's last SELECT counted, else what its first statement loaded."""
    left = _left(report, "write_back.table")
    columns = [str(column).lower() for column in left.get("columns") or ()]
    for name in ("rows", "row_count", "predictions", "n", "count"):
        if name in columns:
            at = columns.index(name)
            return sum(int(row[at] or 0) for row in left["rows"])
    counts = [count for batch in left.get("batches") or () for count in batch["counts"]]
    return next((count["affected"] for count in counts if "affected" in count), None)


def _left(report: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    found = report["left"].get(task)
    return found if isinstance(found, Mapping) else {}


# the page


def render(report: Mapping[str, Any]) -> str:
    """The page: self-contained HTML. Pure."""
    days = report["partition"]
    if report["first_day"] != days:
        days = f"{report['first_day']} to {days}"
    lead = [text(f"Night of {report['partition']}, data of {days}"), " · ", code(report["run_id"])]
    if report["airflow"]:
        lead += [" · ", link("open in Airflow", report["airflow"])]
    return pages.page(
        f"{report['model']}: {outcome(report)}",
        join(lead),
        _facts(report),
        _verdict(report),
        _slices(report),
        _trials(report),
        _compared(report),
        _quality(report),
        _rollout(report),
        _written(report),
        _times(report),
        _cost(report),
        _assets(report),
        footer=f"Written by azflow on {report['generated']}.",
    )


def _facts(report: Mapping[str, Any]) -> Html:
    verdict = _left(report, "evaluate.verdict")
    challenger = verdict.get("challenger") or {}
    difference = verdict.get("difference") or {}
    traffic = _left(report, "roll_out.traffic").get("traffic") or {}
    shown = [
        (_figure(challenger.get("value")), f"challenger's {verdict.get('metric', 'metric')}"),
        (_signed(difference.get("value")), "against the champion") if difference else None,
        (rows_written(report), "predictions written back"),
        (" / ".join(f"{share:g} %" for share in traffic.values() if share), "traffic served") if traffic else None,
        (_duration(wall_seconds(report)), "from first to last step"),
    ]
    return pages.facts([pair for pair in shown if pair and pair[0] not in (None, "")])


def _figure(value: object) -> str | None:
    return shown(value) if isinstance(value, int | float) else None


def _signed(value: object) -> str | None:
    return shown(value, signed=True) if isinstance(value, int | float) else None


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _verdict(report: Mapping[str, Any]) -> Html:
    verdict = _left(report, "evaluate.verdict")
    if not verdict:
        return Html("")
    how = "promoted by force" if verdict.get("forced") else "promoted"
    word = badge(how, "good") if verdict.get("promote") else badge("not promoted", "warn")
    reasons = "".join(f"<p>{text(reason)}</p>" for reason in verdict.get("reasons") or ())
    metric, rows = verdict.get("metric", "metric"), verdict.get("rows")
    bars = []
    version = verdict.get("champion_version")
    for name, label, tone in (
        ("challenger", "Challenger", "accent"),
        ("champion", f"Champion, version {version}", "bar soft"),
    ):
        found = verdict.get(name) or {}
        if isinstance(found.get("value"), int | float):
            low, high = found.get("low"), found.get("high")
            bars.append(charts.Interval(label, found["value"], low, high, tone, _interval(found)))
    bars += [
        charts.Interval(str(one["name"]), one["value"], one.get("low"), one.get("high"), "soft", _interval(one))
        for one in verdict.get("baselines") or ()
        if isinstance(one.get("value"), int | float)
    ]
    parts: list[str] = [f"<p>{word}{_approved(report)}</p>", reasons]
    if bars:
        parts.append(charts.intervals(bars, label=f"{metric} with its interval"))
    difference = verdict.get("difference") or {}
    if isinstance(difference.get("value"), int | float):
        side = "left" if verdict.get("lower_is_better") else "right"
        parts.append(f'<p class="soft small">Difference on the same rows: to the {side}, the challenger is better.</p>')
        row = charts.Interval(
            "Challenger - champion",
            difference["value"],
            difference.get("low"),
            difference.get("high"),
            _tone(difference, verdict),
            _interval(difference, signed=True),
        )
        parts.append(charts.intervals([row], lines={"no difference": 0.0}, label="difference of the metric"))
    curves = {
        label: [(point["predicted"], point["observed"]) for point in verdict[key]]
        for key, label in (("challenger_calibration", "challenger"), ("champion_calibration", "champion"))
        if verdict.get(key)
    }
    if curves:
        unit = str(verdict.get("unit") or "")
        what = "predictions" if unit else "probabilities"
        parts.append(f'<p class="soft small">Do the {what} mean what they say? On the dashed line they do.</p>')
        parts.append(charts.calibration(curves, unit=unit, label="predicted against observed, in bins of equal size"))
    confidence = verdict.get("confidence")
    share = f"{confidence:.0%} " if isinstance(confidence, int | float) and confidence <= 1 else ""
    counted = f"the same {rows:,} hold-out rows" if isinstance(rows, int) else "the same hold-out rows"
    lower = "; lower is better" if verdict.get("lower_is_better") else ""
    unit = f", in {verdict['unit']}" if verdict.get("unit") else ""
    intro = f"{metric}{unit}, on {counted}, with {share}bootstrap intervals{lower}."
    return section("Champion against challenger", intro, *parts)


def _approved(report: Mapping[str, Any]) -> Html:
    """Who let the challenger pass, or didn't, beyond the gate."""
    answer = _left(report, "approve")
    if not answer or answer.get("by") in (None, "gate"):
        return Html("")
    when = f" ({str(answer['at'])[:16].replace('T', ' ')} UTC)" if answer.get("at") else ""
    word = badge("approved", "good") if answer.get("approved") else badge("not approved", "warn")
    who = "nobody answered in time" if answer["by"] == "timeout" else f"by {answer['by']}"
    return join([Html(" "), word, text(f" {who}{when}")])


def _interval(found: Mapping[str, Any], *, signed: bool = False) -> str:
    value = shown(found["value"], signed=signed)
    if found.get("low") is None:
        return value
    short = "+.3f" if signed else ".3f"
    low, high = (format(found[end], short) if abs(found[end]) < 10 else shown(found[end]) for end in ("low", "high"))  # noqa: PLR2004
    return f"{value} [{low}, {high}]"


def _tone(difference: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """Good or bad only where the whole interval says so."""
    sign = -1 if verdict.get("lower_is_better") else 1
    ends = [sign * difference[end] for end in ("low", "high") if isinstance(difference.get(end), int | float)]
    surely = ends or [sign * difference["value"]]
    return "good" if min(surely) > 0 else "bad" if max(surely) < 0 else "accent"


def _slices(report: Mapping[str, Any]) -> Html:
    verdict = _left(report, "evaluate.verdict")
    slices = [one for one in verdict.get("slices") or () if isinstance(one.get("challenger"), int | float)]
    if not slices:
        return Html("")
    slices.sort(key=lambda one: -one["rows"])
    rows = []
    for one in slices[:_SHOWN_SLICES]:
        champion = one.get("champion")
        champion = float(champion) if isinstance(champion, int | float) else None
        note = f"{one['rows']:,} rows" + (f", {one['challenger'] - champion:+.3f}" if champion is not None else "")
        rows.append((f"{one['column']} = {one['value']}", float(one["challenger"]), champion, note))
    both = any(champion is not None for _, _, champion, _ in rows)
    intro = f"{verdict.get('metric')} within parts of the hold-out, largest first" + (
        "; blue: challenger, grey: champion." if both else "."
    )
    left_out = len(slices) - _SHOWN_SLICES
    more = f'<p class="soft small">and {left_out} smaller ones</p>' if left_out > 0 else ""
    return section("Slices", intro, charts.dumbbells(rows, label="metric by slice"), more)


def _trials(report: Mapping[str, Any]) -> Html:
    """The trials of the training job; of a pipeline, its steps and the trials of those that had some."""
    job = _left(report, "train.job")
    children = [child for child in job.get("children") or () if isinstance(child, Mapping)]
    link_to_job = link("The job", str(job.get("url") or ""))
    if job.get("type") != "Pipeline":
        return _leaderboard(job, "Trials", link_to_job)
    rows = [
        (
            child.get("title") or child.get("name"),
            badge("reused", "accent") if child.get("reused") else child.get("status"),
            _duration(child["seconds"]) if isinstance(child.get("seconds"), int | float) else None,
            ", ".join(f"{name} {_counted(value)}" for name, value in (child.get("metrics") or {}).items()),
        )
        for child in children
    ]
    steps = section(f"Steps: {len(rows)}", link_to_job, table(["Step", "", "Took", "Metrics"], rows, numbers=(2,)))
    boards = [_leaderboard(child, f"Trials of {child.get('title') or 'a step'}") for child in children]
    return join([steps, *boards]) if rows else Html("")


def _leaderboard(job: Mapping[str, Any], title: str, more: str = "") -> Html:
    children = [child for child in job.get("children") or () if isinstance(child, Mapping) and child.get("metrics")]
    if not children:
        return Html("")
    names = dict.fromkeys(name for child in children for name in child["metrics"])
    asked = [job["primary_metric"]] if job.get("primary_metric") in names else []
    metric = next(iter([*asked, *known_metrics(names), *names]))
    ranked = sorted(
        (child for child in children if isinstance(child["metrics"].get(metric), int | float)),
        key=lambda child: child["metrics"][metric],
        reverse=metric not in LOWER_IS_BETTER,
    )
    best = job.get("best_child") or (ranked[0]["name"] if ranked else "")
    rows = [
        (_trial_name(child, index), float(child["metrics"][metric]), child["name"] == best)
        for index, child in enumerate(ranked[:_SHOWN_TRIALS], start=1)
    ]
    cut = f", the best {_SHOWN_TRIALS} of {len(ranked)}" if len(ranked) > _SHOWN_TRIALS else ""
    intro = join([text(f"{metric} in validation{cut}. "), more])
    return section(f"{title}: {len(ranked)}", intro, charts.leaderboard(rows, label="trials by metric"))


def _compared(report: Mapping[str, Any]) -> Html:
    """This run beside the last ones (`azflow.tracking.CompareRunsOperator`)."""
    found = _left(report, "evaluate.compare")
    runs = [run for run in found.get("runs") or () if isinstance(run, Mapping)]
    if len(runs) < 2:  # noqa: PLR2004 - nothing to compare with
        return Html("")
    metric = str(found.get("metric") or "")
    points = [
        charts.Point(str(run["label"]), float(value), f"{run['label']}: {metric} {value:.4f}", run is runs[0])
        for run in reversed(runs)
        if isinstance(value := run["metrics"].get(metric), int | float)
    ]
    parts: list[str] = []
    if len(points) > 1:
        parts.append(charts.trend(points, label=f"{metric} of the last runs"))
    summary = [text(line) for line in found.get("summary") or ()]
    if found.get("unusual"):
        summary.append(badge("unusual", "warn"))
    changed = "".join(f"<li>{text(line)}</li>" for line in found.get("changed") or ())
    if changed:
        parts.append(pages.fold("What changed since the run before", f"<ul>{changed}</ul>"))
    shown = [metric] if metric else []
    shown += [name for name in sorted(runs[0]["metrics"]) if name != metric][: _SHOWN_METRICS - len(shown)]
    parameters = _varying(runs)[:_SHOWN_PARAMETERS]
    headers = ["Run", "Started", *shown, *parameters, "Data"]
    rows = [
        (
            link(run["label"], str(run.get("url") or "")),
            str(run.get("started") or "")[:16].replace("T", " "),
            *(run["metrics"].get(name) for name in shown),
            *(run["parameters"].get(name) for name in parameters),
            ", ".join(_tail(value) for value in run["data"].values()),
        )
        for run in runs
    ]
    parts.append(table(headers, rows, numbers=tuple(range(2, 2 + len(shown)))))
    intro = join([Html("; ".join(summary)), Html(". "), link("Compare in MLflow", str(found.get("url") or ""))])
    return section("Beside the last runs", intro, *parts)


def _varying(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {name for run in runs for name in run["parameters"]}
    return sorted(name for name in names if len({run["parameters"].get(name) for run in runs}) > 1)


def _tail(value: object, length: int = 40) -> str:
    shown = str(value)
    return shown if len(shown) <= length else f"…{shown[-(length - 1) :]}"


def _counted(value: float) -> str:
    """A step's metric: rows are whole, errors aren't."""
    return f"{value:,.0f}" if float(value).is_integer() else shown(value)


def _rounded(value: object) -> str:
    try:
        return f"{float(str(value)):.3g}"
    except ValueError:
        return str(value)


def _trial_name(child: Mapping[str, Any], rank: int) -> str:
    # Azure ML names the pre-processing first: "StandardScalerWrapper, LightGBM".
    algorithm = str(child.get("algorithm") or "").rpartition(", ")[2]
    # A sweep's trials differ in what they were given.
    chosen = ", ".join(_rounded(value) for value in (child.get("parameters") or {}).values())
    return f"{rank}. {algorithm or chosen or child.get('title') or child.get('name') or 'trial'}"


def _quality(report: Mapping[str, Any]) -> Html:
    if not report["quality"]:
        return Html("")
    parts: list[str] = []
    for summary in report["quality"]:
        failing = [result for result in summary["results"] if not result["success"]]
        passing = [result for result in summary["results"] if result["success"]]
        verdict = badge("passed", "good") if summary["success"] else badge("stopped the run", "bad")
        counted = f"{summary['failed']} failed, {summary['warned']} warned"
        if summary.get("quarantined"):
            counted += f", {summary['quarantined']:,} rows moved to {summary['quarantine_table']}"
        head = f"{summary['checked']} expectations on {summary['table']}: {counted}"
        parts.append(f"<p>{verdict} {text(head)}</p>")
        if failing:
            failing.sort(key=lambda result: result["severity"] != "block")
            parts.append(_expectations(failing))
        if passing:
            parts.append(pages.fold(f"The {len(passing)} that hold", _expectations(passing)))
    return section("Data quality", "Great Expectations, as SQL in the pool, before training.", *parts)


def _expectations(results: Iterable[Mapping[str, Any]]) -> Html:
    def outcome(result: Mapping[str, Any]) -> Html:
        if result["success"]:
            return badge("ok", "good")
        return badge(*quality_page.BADGES[result["severity"]])

    rows = [
        (outcome(result), code(result["column"]) if result["column"] else "", result["says"], result.get("found"))
        for result in results
    ]
    return table(["", "Column", "Expectation", "Found"], rows)


def _rollout(report: Mapping[str, Any]) -> Html:
    rollout = _left(report, "roll_out.traffic")
    stages = [stage for stage in rollout.get("stages") or () if isinstance(stage, Mapping)]
    if not rollout:
        return Html("")
    new = str(rollout.get("deployment") or "challenger")
    bars = []
    for stage in stages:
        shares = stage.get("traffic") or {}
        pieces = [(str(n), float(share), "accent" if n == new else "bar soft") for n, share in shares.items() if share]
        seen = stage.get("share")
        note = f"seen {seen:.0%}" if isinstance(seen, int | float) else ""
        name = f"{stage['percent']} %" if stage.get("percent") else f"{_stage_name(stage)}, before traffic"
        bars.append((name, sorted(pieces, key=lambda piece: piece[2] != "accent"), note))
    rows = [
        (
            _stage_name(stage),
            badge(stage.get("decision"), "good" if stage.get("decision") == "advance" else "bad"),
            stage.get("requests"),
            stage.get("errors"),
            f"{stage['p95_ms']:.0f} ms" if isinstance(stage.get("p95_ms"), int | float) else None,
            f"{stage['agreement']:.1%}" if isinstance(stage.get("agreement"), int | float) else None,
            _observed(stage.get("observed")),
            f"{stage['seconds']:.0f} s" if isinstance(stage.get("seconds"), int | float) else None,
        )
        for stage in stages
    ]
    champion = rollout.get("champion")
    intro = join(
        [
            text(f"Blue: {new}; grey: {champion or 'nobody served before'}. "),
            link("The endpoint", str(rollout.get("url") or "")),
        ]
    )
    headers = ["Stage", "", "Requests", "Errors", "p95", "Agrees with champion", "The endpoint counted", "Took"]
    seen_by = table(headers, rows, numbers=(2, 3, 4, 5, 7))
    why, lines = str(rollout.get("problem") or ""), [str(line) for line in rollout.get("log") or ()]
    taken_back = f"<p>{badge('taken back', 'bad')} {text(why)}</p>" if why else ""
    log = pages.fold(f"The end of {new}'s log", f"<pre>{text(chr(10).join(lines))}</pre>") if lines else ""
    return section("Roll-out", intro, taken_back, charts.shares(bars, label="traffic by stage"), seen_by, log)


def _stage_name(stage: Mapping[str, Any]) -> str:
    return str(stage.get("name") or (f"{stage['percent']} %" if stage.get("percent") else "probe"))


def _observed(found: object) -> str | None:
    """What the endpoint's own metrics said of a stage."""
    if not isinstance(found, Mapping):
        return None
    slow = f", p95 {found['p95_ms']:.0f} ms" if isinstance(found.get("p95_ms"), int | float) else ""
    return f"{found.get('requests'):,} requests, {found.get('failed')} failed{slow}"


def _written(report: Mapping[str, Any]) -> Html:
    left = _left(report, "write_back.table")
    if not left:
        return Html("")
    count = rows_written(report)
    intro = f"{count:,} predictions of {report['partition']}, replaced in one switch." if count is not None else ""
    shown = ""
    if left.get("columns"):
        shown = table([str(column).replace("_", " ") for column in left["columns"]], left["rows"])
    return section("Written back", intro, shown)


def _times(report: Mapping[str, Any]) -> Html:
    steps = [step for step in report["steps"] if step["state"] not in ("", "skipped", "removed")]
    skipped = [step["task"] for step in report["steps"] if step["state"] == "skipped"]
    if not steps:
        return Html("")
    rows = [
        charts.Span(
            step["task"],
            float(step["start"]),
            float(step["seconds"]),
            _TONES.get(step["state"], "bar") if step["state"] != "success" else "bar",
            f"{step['seconds']:.1f} s" + ("" if step["state"] == "success" else f", {step['state']}"),
        )
        for step in steps
    ]
    intro = "" if report["measured"] else "Starts are reckoned from what each step waited for; lengths are measured."
    after = f'<p class="soft small">Skipped: {text(", ".join(skipped))}</p>' if skipped else ""
    links = [(code(step["task"]), link("open", step["url"])) for step in report["steps"] if step.get("url")]
    remote = table(["Remote run of", ""], links) if links else ""
    return section("What each step took", intro, charts.spans(rows, label="when each step ran"), after, remote)


def spent(report: Mapping[str, Any]) -> dict[str, float]:
    """Task id -> node seconds of its Azure ML job, also of jobs that failed."""
    found = {task: value.get("node_seconds") for task, value in report["left"].items() if isinstance(value, Mapping)}
    found |= {task: value.get("node_seconds") for task, value in (report.get("spent") or {}).items()}
    return {task: float(value) for task, value in found.items() if isinstance(value, int | float)}


def _cost(report: Mapping[str, Any]) -> Html:
    seconds = spent(report)
    if not seconds:
        return Html("")
    total = sum(seconds.values())
    rows = [charts.Span(task, 0.0, each, "bar", hours(each)) for task, each in seconds.items()]
    intro = f"{hours(total)} in all: how long Azure ML's jobs held nodes, times their nodes. Bars are node seconds."
    said = _spend_judgement([*report["left"].values(), *(report.get("spent") or {}).values()])
    return section("What the jobs cost", intro, said, charts.spans(rows, label="node seconds by task"))


def _spend_judgement(found: Iterable[object]) -> str:
    """What the jobs say about the model's spend limits; empty without limits."""
    judged: list[Mapping[str, Any]] = [
        value["spend"] for value in found if isinstance(value, Mapping) and isinstance(value.get("spend"), Mapping)
    ]
    if not judged:
        return ""
    limits = [(key.removeprefix("max_node_hours_"), value) for key, value in judged[-1]["limits"].items() if value]
    allowed = ", ".join(f"{value:g} {key.replace('_', ' ')}" for key, value in limits)
    over = dict.fromkeys(str(line) for each in judged for line in each["over"])
    word = badge("above the limits", "bad") if over else badge("within the limits", "good")
    lines = "".join(f"<p>{text(line)}</p>" for line in over)
    return f"<p>{word} {text(f'node hours allowed: {allowed}')}</p>{lines}"


def _assets(report: Mapping[str, Any]) -> Html:
    rows: list[tuple[object, object, object]] = []
    for task, value in report["left"].items():
        if not (task.startswith("data.") and isinstance(value, Mapping)):
            continue
        if name := value.get("id") or value.get("name"):  # the task that exports leaves no asset
            rows.append(("Data asset", code(name), _data(value)))
    model = _left(report, "register.model")
    if model:
        name = model.get("id") or f"{model.get('name')}:{model.get('version')}"
        rows.append(("Model", code(name), code(model["path"]) if model.get("path") else ""))
    deployed = _left(report, "roll_out.deploy")
    if deployed:
        uri = deployed.get("scoring_uri")
        rows.append(("Deployment", code(deployed.get("deployment")), code(uri) if uri else ""))
    for task in ("train.job", "evaluate.job", "write_back.score"):
        job = _left(report, task)
        if job:
            rows.append(("Azure ML job", code(job.get("name")), link(task, str(job.get("url") or ""))))
    if not rows:
        return Html("")
    return section("Versions", "What this night made and used, by name.", table(["", "Name", ""], rows))


def _data(asset: Mapping[str, Any]) -> str:
    """How many rows and columns an asset points at, and the digest of its schema."""
    rows, columns, schema = asset.get("rows"), asset.get("columns"), asset.get("schema_hash")
    shown = (
        f"{rows:,} rows" if isinstance(rows, int) else "",
        f"{len(columns)} columns" if isinstance(columns, Sequence) else "",
        f"schema {schema}" if schema else "",
    )
    return ", ".join(part for part in shown if part)
