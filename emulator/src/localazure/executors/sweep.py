"""Sweep jobs: trials of one command with sampled hyperparameters, each a child job; the best one's outputs are the
sweep's.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-sweep and .../how-to-tune-hyperparameters
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.executors import early_termination, search_space
from localazure.executors.durations import seconds
from localazure.executors.early_termination import Policy, Reports
from localazure.executors.job import Child, JobFailed, JobRunner, RunningJob
from localazure.executors.samplers import GridSampler, ProcessSampler, RandomSampler, Sampler
from localazure.executors.search_space import SearchSpace
from localazure.settings import Settings
from localazure.tracking.runs import TrackingError

_EXPRESSION = re.compile(r"\$\{\{\s*search_space\.(?P<name>[A-Za-z0-9_.\-]+)\s*\}\}")
_MAX_TRIALS = 1000  # the default and the most there may be
_TIMEOUT = 5184000.0  # seconds; the service's default
_POLL_SECONDS = 1.0  # between two looks at what the trials reported, where a policy wants to know
_TRACKING_ATTEMPTS = 4
_SHOWN_ERROR = 1500  # characters of a trial's error in the sweep's own


@dataclass(frozen=True)
class _Plan:
    """A sweep job's properties, checked."""

    space: SearchSpace
    sampling: str  # random, sobol, grid, bayesian
    seed: int | None
    metric: str
    maximize: bool
    policy: Policy | None
    trials: int
    concurrent: int
    timeout: float

    def best(self, values: tuple[float, ...]) -> float | None:
        return (max if self.maximize else min)(values) if values else None


@dataclass
class _Trial:
    number: int
    name: str
    values: dict[str, Any]
    reported: tuple[float, ...] = ()
    judged: int = 0  # intervals the policy has looked at
    ended: Child | None = None

    @property
    def reports(self) -> Reports:
        return Reports(self.reported, self.ended is not None)


@dataclass
class _Sweep:
    """The state of one sweep."""

    job: RunningJob
    plan: _Plan
    trials: list[_Trial] = field(default_factory=list)
    running: dict[asyncio.Task[Child], _Trial] = field(default_factory=dict)


class SweepRunner:
    """Orchestrates trials. `trial` is the runner of command jobs: it checks at submission what each trial will be."""

    def __init__(self, settings: Settings, trial: JobRunner) -> None:
        self._settings = settings
        self._trial = trial

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner."""
        plan = _plan(properties)
        template = properties.get("trial")
        if not isinstance(template, dict) or not str(template.get("command") or "").strip():
            raise BadRequest("A sweep job needs a trial with a command.", "trial.command", "UserError")
        for name in _EXPRESSION.findall(template["command"]):
            if name not in plan.space.parameters:
                known = ", ".join(plan.space.parameters)
                raise BadRequest(
                    f"The trial's command uses ${{{{search_space.{name}}}}}, but the search_space has {known}.",
                    "trial.command",
                    "UserError",
                )
        self._trial.validate(_trial_job(properties, plan.space.at([0.5] * plan.space.dimensions)))

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """`limits.timeout`."""
        return _plan(properties).timeout

    def nodes(self, properties: dict[str, Any]) -> int:
        """None: its trials have them."""
        return 0

    async def prepare(self, job: RunningJob) -> None:
        """Writes down what the service writes down of a sweep."""
        plan = _plan(job.properties)
        goal = "maximize" if plan.maximize else "minimize"
        job.found["properties"] = {
            "runTemplate": "HyperDrive",
            "azureml.runsource": "hyperdrive",
            "platform": "AML",
            "primary_metric_config": json.dumps({"name": plan.metric, "goal": goal}),
            "space_size": str(plan.space.size() or "infinite_space_size"),
        }

    async def execute(self, job: RunningJob) -> None:
        """Runs the trials. JobFailed if none of them gave a value of the primary metric."""
        sweep = _Sweep(job, _plan(job.properties))
        sampler = self._sampler(sweep)
        try:
            await self._search(sweep, sampler)
        finally:
            for task in sweep.running:
                task.cancel()
            if sweep.running:
                await asyncio.wait(sweep.running)
            await sampler.close()
        job.found["best"] = _best(sweep).ended

    async def finalize(self, job: RunningJob) -> None:
        """Copies the outputs of the best trial to the sweep's own addresses."""
        best: Child = job.found["best"]
        for name, output in job.outputs.items():
            made = best.outputs.get(name)
            if made is None:
                continue
            try:
                local = await asyncio.to_thread(job.assets.resolve, str(made["uri"]))
            except NotFound:
                job.note(f"output '{name}' is empty: the best trial {best.name} wrote nothing there")
                continue
            target = await asyncio.to_thread(job.assets.location, str(output["uri"]))
            sent = await asyncio.to_thread(job.blobs.upload_tree, local, target)
            job.note(f"output '{name}': {len(sent)} file(s) of {best.name} -> {output['uri']}")

    def _sampler(self, sweep: _Sweep) -> Sampler:
        plan, job = sweep.plan, sweep.job
        if plan.sampling == "grid":
            return GridSampler(plan.space)
        if plan.sampling == "random":
            return RandomSampler(plan.space, plan.seed)
        asked: dict[str, Any] = {"sampler": plan.sampling, "seed": plan.seed}
        if plan.sampling == "sobol":
            asked["dimensions"] = plan.space.dimensions
        else:
            asked["maximize"] = plan.maximize
            asked["choices"] = [each.size() or 0 for each in plan.space.parameters.values()]
        return ProcessSampler(
            plan.space,
            asked,
            python=self._settings.compute_python,
            environment=job.environment({}),
            log=job.folder / "sampler.log",
        )

    async def _search(self, sweep: _Sweep, sampler: Sampler) -> None:
        plan = sweep.plan
        more = True
        while True:
            while more and len(sweep.running) < plan.concurrent and len(sweep.trials) < plan.trials:
                values = await sampler.draw(len(sweep.trials))
                more = values is not None
                if values is not None:
                    self._begin(sweep, values)
            if not sweep.running:
                return
            wait = None if plan.policy is None else _POLL_SECONDS
            done, _ = await asyncio.wait(sweep.running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                trial = sweep.running.pop(task)
                await self._end(sweep, trial, task.result())
                failed = trial.ended is None or trial.ended.state == "Failed"
                await sampler.tell(trial.number, None if failed else plan.best(trial.reported))
            if plan.policy is not None:
                await self._apply(sweep, plan.policy)

    def _begin(self, sweep: _Sweep, values: dict[str, Any]) -> None:
        job, number = sweep.job, len(sweep.trials)
        trial = _Trial(number, f"{job.name}_{number}", values)
        shown = json.dumps(values, default=str)
        job.note(f"trial {trial.name}: {shown}")
        properties = _trial_job(job.properties, values)
        properties["displayName"] = f"{job.properties.get('displayName') or job.name}_{number}"
        run = {"number": number, "runType": "azureml.scriptrun"}
        sweep.trials.append(trial)
        task = asyncio.get_running_loop().create_task(job.children.run(trial.name, properties, run=run))
        sweep.running[task] = trial

    async def _end(self, sweep: _Sweep, trial: _Trial, child: Child) -> None:
        trial.reported = await self._reported(sweep, trial)
        trial.ended = child
        value = sweep.plan.best(trial.reported)
        outcome = f"{sweep.plan.metric} = {value:g}" if value is not None else f"no {sweep.plan.metric}"
        sweep.job.note(f"trial {trial.name}: {child.state}, {outcome}")
        best = _best_of(sweep)
        if best is not None:
            score = sweep.plan.best(best.reported)
            sweep.job.found["properties"] |= {
                "best_child_run_id": best.name,
                "score": repr(score),
                "best_metric_status": "Succeeded",
                "best_data_container_id": f"dcid.{best.name}",
            }

    async def _reported(self, sweep: _Sweep, trial: _Trial) -> tuple[float, ...]:
        for _ in range(_TRACKING_ATTEMPTS - 1):
            try:
                history = await sweep.job.tracking.metric_history(trial.name, sweep.plan.metric)
                break
            except TrackingError:  # a busy machine: a look that fails is no reason to give up hours of trials
                await asyncio.sleep(_POLL_SECONDS)
        else:
            history = await sweep.job.tracking.metric_history(trial.name, sweep.plan.metric)
        return tuple(value for _, value, _ in sorted(history, key=lambda each: each[2]) if math.isfinite(value))

    async def _apply(self, sweep: _Sweep, policy: Policy) -> None:
        """Lets the policy look at every report that is new, and ends the trials it rejects."""
        running = sorted(sweep.running.values(), key=lambda each: each.number)
        histories = await asyncio.gather(*(self._reported(sweep, trial) for trial in running))
        for trial, reported in zip(running, histories, strict=True):
            trial.reported = reported
        for trial in running:
            others = [each.reports for each in sweep.trials if each is not trial]
            while trial.judged < len(trial.reported):
                trial.judged += 1
                if not policy.applies(trial.judged):
                    continue
                reason = policy.verdict(trial.judged, trial.reports, others)
                if reason is not None:
                    sweep.job.note(
                        f"trial {trial.name}: ended by {policy.kind} at interval {trial.judged}, because {reason}"
                    )
                    trial.judged = len(trial.reported)
                    sweep.job.children.cancel(trial.name)


def _best_of(sweep: _Sweep) -> _Trial | None:
    candidates = [
        trial for trial in sweep.trials if trial.ended is not None and trial.ended.succeeded and trial.reported
    ]
    sign = 1 if sweep.plan.maximize else -1
    return max(candidates, key=lambda trial: sign * (sweep.plan.best(trial.reported) or 0.0), default=None)


def _best(sweep: _Sweep) -> _Trial:
    """The best trial; JobFailed says why there is none."""
    if (best := _best_of(sweep)) is not None:
        return best
    ended = [(trial, trial.ended) for trial in sweep.trials if trial.ended is not None]
    if silent := [trial for trial, child in ended if child.succeeded]:
        metric = sweep.plan.metric
        names = ", ".join(trial.name for trial in silent[:3]) + (" ..." if len(silent) > 3 else "")  # noqa: PLR2004
        raise JobFailed(
            f"The primary metric '{metric}' was logged by none of the {len(silent)} completed trial(s) ({names}). Log "
            f'it in the training script, mlflow.log_metric("{metric}", value), or name another '
            "objective.primary_metric: names must match exactly."
        )
    if failed := [(trial, child) for trial, child in ended if child.state == "Failed"]:
        trial, child = failed[0]
        cause = str((child.error or {}).get("message") or "no cause was given")[-_SHOWN_ERROR:]
        how_many = f"All {len(ended)} trials" if len(failed) == len(ended) else f"{len(failed)} of {len(ended)} trials"
        raise JobFailed(f"{how_many} of the sweep failed and none completed. {trial.name}: {cause}")
    states = ", ".join(f"{trial.name} {child.state}" for trial, child in ended) or "none was started"
    raise JobFailed(f"No trial of the sweep completed: {states}.")


def _trial_job(properties: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The command job of one trial."""
    template, limits = properties["trial"], properties.get("limits") or {}
    texts = {name: search_space.text(value) for name, value in values.items()}
    shared = ("computeId", "experimentName", "inputs", "identity", "queueSettings")
    outputs = {
        name: {key: value for key, value in (entry or {}).items() if key in ("jobOutputType", "mode")}
        for name, entry in (properties.get("outputs") or {}).items()
        if name != "default"
    }
    # "parameters are accessible as environment variables using the prefix AZUREML_SWEEP_":
    # https://learn.microsoft.com/python/api/azure-ai-ml/azure.ai.ml.sweep.sweepjob
    variables = {f"AZUREML_SWEEP_{name}": value for name, value in texts.items()}
    job = {
        "jobType": "Command",
        **{name: properties[name] for name in shared if properties.get(name) is not None},
        **{name: template[name] for name in ("codeId", "environmentId", "distribution") if template.get(name)},
        "command": _EXPRESSION.sub(lambda match: texts[match["name"]], template["command"]),
        "environmentVariables": {**(template.get("environmentVariables") or {}), **variables},
        "outputs": outputs,
        "tags": {"hyperparameters": json.dumps(values, default=str)},
        "resources": properties.get("resources") or template.get("resources"),
        "limits": {"jobLimitsType": "Command", "timeout": limits.get("trialTimeout")},
    }
    return {name: value for name, value in job.items() if value is not None}


def _plan(properties: dict[str, Any]) -> _Plan:
    """The properties as a plan. BadRequest in the vendor's words where the service refuses."""
    algorithm = properties.get("samplingAlgorithm") or {}
    base = _base(algorithm.get("logbase"))
    space = search_space.parse(properties.get("searchSpace"), base)
    kind = str(algorithm.get("samplingAlgorithmType") or "").lower()
    rule = str(algorithm.get("rule") or "random").lower()
    if kind not in ("random", "grid", "bayesian"):
        raise _bad(f"sampling_algorithm must be random, grid or bayesian, not '{kind}'", "samplingAlgorithm")
    if kind == "random" and rule not in ("random", "sobol"):
        raise _bad(f"The rule of random sampling must be random or sobol, not '{rule}'", "samplingAlgorithm.rule")
    if kind == "grid":
        space.require_grid()
    if kind == "bayesian":
        space.require_bayesian()
    objective = properties.get("objective") or {}
    goal = str(objective.get("goal") or "").lower()
    if goal not in ("maximize", "minimize"):
        raise _bad(f"objective.goal must be maximize or minimize, not '{goal}'", "objective.goal")
    if not objective.get("primaryMetric"):
        raise _bad("A sweep job needs objective.primary_metric", "objective.primaryMetric")
    limits = properties.get("limits") or {}
    trials = _count(limits.get("maxTotalTrials"), _MAX_TRIALS, "max_total_trials")
    concurrent = min(_count(limits.get("maxConcurrentTrials"), trials, "max_concurrent_trials"), trials)
    seconds(limits.get("trialTimeout"), "limits.trial_timeout")
    return _Plan(
        space=space,
        sampling=rule if kind == "random" else kind,
        seed=algorithm.get("seed"),
        metric=str(objective["primaryMetric"]),
        maximize=goal == "maximize",
        policy=early_termination.parse(properties.get("earlyTermination"), goal == "maximize"),
        trials=trials,
        concurrent=concurrent,
        timeout=seconds(limits.get("timeout"), "limits.timeout") or _TIMEOUT,
    )


def _base(given: Any) -> float:
    if given is None or given == "e":
        return math.e
    try:
        base = float(given)
    except (TypeError, ValueError):
        base = 0.0
    if base <= 0:
        raise _bad(f'logbase must be a positive number or "e", not {given!r}', "samplingAlgorithm.logbase")
    return base


def _count(given: Any, default: int, name: str) -> int:
    if given is None:
        return default
    if not isinstance(given, int) or not 1 <= given <= _MAX_TRIALS:
        raise _bad(f"limits.{name} must be an integer between 1 and {_MAX_TRIALS}, not {given!r}", f"limits.{name}")
    return given


def _bad(message: str, target: str) -> AzureError:
    return BadRequest(f"{message}.", target, "UserError")
