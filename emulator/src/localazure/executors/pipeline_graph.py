"""A pipeline job as a graph: what its steps are given, what they wait for, and everything that can be wrong with it.

Pure. The wire's form is Azure ML's: the pipeline's own properties are camelCase, its nodes (`jobs`) and component specs
are snake_case. https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-pipeline and
.../reference-yaml-core-syntax#expressions-in-azure-machine-learning-jobs
"""

from __future__ import annotations

import ast
import contextlib
import graphlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.automl_wire import DATA_ROLES

# The spec of the component behind an id; NotFound if there is none.
Specs = Callable[[str], Mapping[str, Any]]
Entry = dict[str, Any]

RUNNABLE_STEPS = ("command", "sweep", "parallel", "spark", "automl", "pipeline")
_REFUSED_STEPS = ("if_else", "do_while", "parallel_for", "import", "data_transfer", "fl_scatter_gather")
_DATA = frozenset({"uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model", "path"})
# Parts of a node or a component that are objects.
_OBJECTS = (
    "inputs", "outputs", "resources", "distribution", "limits", "environment_variables", "identity", "services",
    "queue_settings", "tags", "properties", "trial", "search_space", "objective", "early_termination", "task",
    "retry_settings", "conf", "entry",
)  # fmt: skip
_SPECIAL = _DATA - {"uri_file", "uri_folder", "path"}
_PRIMITIVE = frozenset({"string", "integer", "number", "boolean"})
_BINDING = re.compile(r"\$\{\{\s*parent\.(?P<scope>[A-Za-z_]+)\.(?P<path>[A-Za-z0-9_.\-]+)\s*\}\}")
_PARENT = re.compile(r"\$\{\{\s*parent\b[^}]*\}\}")
# https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-pipeline#attributes-of-the-settings-key
_SETTINGS = frozenset(
    {"default_compute", "default_datastore", "continue_on_step_failure", "force_rerun", "on_init", "on_finalize"}
)
# Said by the SDK about where the job comes from, and what has a meaning only where it is true (refused below).
_SETTINGS_IGNORED = frozenset({"_source", "continue_run_on_failed_optional_input"})


@dataclass(frozen=True)
class Settings:
    """`settings` of a pipeline, with the service's defaults."""

    default_compute: str | None = None
    default_datastore: str | None = None
    continue_on_step_failure: bool = True
    force_rerun: bool = False
    on_init: str | None = None
    on_finalize: str | None = None


@dataclass(frozen=True)
class Given:
    """What a step's input is given: a `text` that may hold bindings, or data with an address of its own (`entry`)."""

    text: str | None = None
    entry: Entry | None = None
    mode: str | None = None


@dataclass(frozen=True)
class Sink:
    """An output of a step: its type, and where its content goes. `bound` names the pipeline's output it becomes."""

    kind: str
    uri: str | None = None
    mode: str | None = None
    name: str | None = None
    version: str | None = None
    bound: str | None = None


@dataclass(frozen=True)
class Step:
    """One node. `spec` is its component's, empty for AutoML; `after` are the steps whose outputs it reads."""

    name: str
    kind: str
    node: Mapping[str, Any]
    spec: Mapping[str, Any]
    component: str | None
    inputs: Mapping[str, Given]
    outputs: Mapping[str, Sink]
    after: frozenset[str]

    @property
    def declared(self) -> Mapping[str, Any]:
        """The component's inputs, groups taken apart."""
        return declared_inputs(self.spec)


@dataclass(frozen=True)
class Pipeline:
    """A pipeline that is sound. `inputs` are ARM job inputs, defaults applied; `steps` are in an order that works."""

    inputs: Mapping[str, Entry]
    outputs: Mapping[str, Entry]
    steps: Mapping[str, Step]
    settings: Settings
    compute: str | None = None
    made_by: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # pipeline output -> (step, its output)


def parse(properties: Mapping[str, Any], specs: Specs) -> Pipeline:
    """The graph of a pipeline job's ARM properties. BadRequest names the step and the key; a step of a type that
    doesn't run here is refused with NotImplementedOperation.
    """
    spec: Mapping[str, Any] = specs(str(properties["componentId"])) if properties.get("componentId") else {}
    if spec and spec.get("type") != "pipeline":
        raise _bad("componentId", f"A pipeline job's component is of type pipeline, not {spec.get('type')}.")
    nodes = _object(properties, "jobs") or _object(spec, "jobs")
    if not nodes:
        raise _bad("jobs", "A pipeline job needs at least one step.")
    inputs = _pipeline_inputs(_object(properties, "inputs"), spec)
    declared, asked = _object(spec, "outputs"), _object(properties, "outputs")
    outputs = {name: _output(_object(declared, name, "outputs.")) for name in declared}
    outputs |= {name: _output(_object(asked, name, "outputs.")) for name in asked if name != "default"}
    settings = _settings(_object(properties, "settings"), nodes)
    steps = {name: _step(name, node, specs) for name, node in nodes.items()}
    compute = properties.get("computeId")
    made_by: dict[str, tuple[str, str]] = {}
    for step in steps.values():
        _check_bindings(step, inputs, steps)
        for name, sink in step.outputs.items():
            if sink.bound is None:
                continue
            if sink.bound not in outputs:
                raise _bad(f"jobs.{step.name}.outputs.{name}", f"The pipeline has no output '{sink.bound}' "
                           f"(it has {_listed(outputs)}); '{name}' of '{step.name}' is bound to it.")  # fmt: skip
            if sink.bound in made_by:
                other = ".".join(made_by[sink.bound])
                raise _bad(f"jobs.{step.name}.outputs.{name}", f"The pipeline's output '{sink.bound}' is written "
                           f"twice: by {other} and by {step.name}.{name}.")  # fmt: skip
            made_by[sink.bound] = (step.name, name)
    if unmade := sorted(set(outputs) - set(made_by)):
        raise _bad(f"outputs.{unmade[0]}", f"No step writes the pipeline's output '{unmade[0]}': bind a step's output "
                   f"to ${{{{parent.outputs.{unmade[0]}}}}}.")  # fmt: skip
    ordered = {name: steps[name] for name in _order(steps)}
    pipeline = Pipeline(inputs, outputs, ordered, settings, compute, made_by)
    _check_hooks(pipeline)
    return pipeline


def bindings(text: str) -> Iterator[tuple[str, str]]:
    """Every binding of a text: ("inputs", name), ("outputs", name) or ("jobs", "<step>.outputs.<name>")."""
    for match in _BINDING.finditer(text):
        yield match["scope"], match["path"]


def whole(text: str) -> tuple[str, str] | None:
    """The binding that a text consists of; None if it is something else or more than that."""
    match = _BINDING.fullmatch(text.strip())
    return (match["scope"], match["path"]) if match else None


def source(path: str) -> tuple[str, str] | None:
    """`prep.outputs.rows` -> ("prep", "rows")."""
    step, found, output = path.partition(".outputs.")
    return (step, output) if found and step and output else None


def interpolate(text: str, inputs: Mapping[str, Entry], where: str) -> str:
    """The text with literal pipeline inputs put in the place of their bindings."""

    def value(match: re.Match[str]) -> str:
        entry = inputs.get(match["path"]) if match["scope"] == "inputs" else None
        if entry is None or not is_literal(entry):
            raise _bad(where, f"'{text}' puts {match[0]} into a text; only literal inputs of the pipeline can be.")
        return str(entry.get("value", ""))

    return _BINDING.sub(value, text)


def is_literal(entry: Mapping[str, Any]) -> bool:
    """Whether an ARM job input is a literal value."""
    return entry.get("jobInputType") == "literal"


def declared_inputs(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A component's inputs; those of a group are named `group.name`."""
    found: dict[str, Mapping[str, Any]] = {}

    def add(name: str, each: Mapping[str, Any]) -> None:
        if each.get("type") == "group":
            for inner, value in (each.get("values") or {}).items():
                add(f"{name}.{inner}", value)
        else:
            found[name] = each

    for name, each in (spec.get("inputs") or {}).items():
        add(name, each or {})
    return found


def literal(declared: Mapping[str, Any], text: str, where: str) -> str:
    """A literal for an input as the component declares it; BadRequest if its type, range or enumeration forbids it."""
    kind = declared.get("type", "string")
    value = text.strip()
    number: float | None = None
    try:
        if kind == "integer":
            number = int(value)
        elif kind == "number":
            number = float(value)
        elif kind == "boolean" and value.lower() not in ("true", "false"):
            raise ValueError(value)
    except ValueError:
        raise _bad(where, f"'{text}' is no {kind}, which the component declares for {where}.") from None
    least, most = declared.get("min"), declared.get("max")
    if number is not None and least is not None and number < float(least):
        raise _bad(where, f"{where} must be at least {least}, not {text}.")
    if number is not None and most is not None and number > float(most):
        raise _bad(where, f"{where} must be at most {most}, not {text}.")
    allowed = declared.get("enum")
    if allowed and value not in {str(each) for each in allowed}:
        raise _bad(where, f"{where} must be one of {', '.join(map(str, allowed))}, not '{text}'.")
    return text


def resolved_inputs(
    step: Step, inputs: Mapping[str, Entry], outputs: Mapping[str, Mapping[str, Entry]]
) -> dict[str, Entry]:
    """The step's inputs as ARM job inputs. `outputs` has the outputs (uri, jobOutputType) of the steps before it.

    An optional input without a value isn't there. BadRequest as `literal`.
    """
    found: dict[str, Entry] = {}
    declared = step.declared
    for name, given in step.inputs.items():
        if _searched(step, name):
            continue
        where = f"jobs.{step.name}.inputs.{name}"
        entry = _resolved(given, inputs, outputs, where)
        if entry is None:
            continue
        wanted = declared.get(name, {})
        found[name] = _as_declared(entry, wanted, given.mode, where)
    for name, wanted in declared.items():
        if name in found or _searched(step, name):
            continue
        if wanted.get("default") is not None:
            where = f"jobs.{step.name}.inputs.{name}"
            found[name] = {"jobInputType": "literal", "value": literal(wanted, str(wanted["default"]), where)}
        elif not wanted.get("optional"):
            raise _missing(step, name)
    return found


def _resolved(
    given: Given, inputs: Mapping[str, Entry], outputs: Mapping[str, Mapping[str, Entry]], where: str
) -> Entry | None:
    if given.entry is not None:
        return given.entry
    text = given.text or ""
    match whole(text):
        case ("inputs", name):
            return inputs.get(name)
        case ("jobs", path):
            step, output = source(path) or ("", "")
            made = outputs[step][output]
            return {"jobInputType": made["jobOutputType"], "uri": made["uri"]}
    return {"jobInputType": "literal", "value": interpolate(text, inputs, where)}


def _as_declared(entry: Entry, wanted: Mapping[str, Any], mode: str | None, where: str) -> Entry:
    kind = wanted.get("type")
    if is_literal(entry):
        if kind in _DATA:
            raise _bad(where, f"{where} is data of type {kind}; it was given the literal '{entry.get('value')}'.")
        return {"jobInputType": "literal", "value": literal(wanted, str(entry.get("value", "")), where)}
    if kind in _PRIMITIVE:
        raise _bad(where, f"{where} is a {kind}; it was given data ({entry.get('uri')}).")
    # What is given says best whether it is a file: a uri_file for a uri_folder is taken, as in the service.
    found = {**entry, "jobInputType": kind if kind in _SPECIAL else entry["jobInputType"]}
    if chosen := mode or entry.get("mode") or _mode(wanted.get("mode"), mount="ReadOnlyMount"):
        found["mode"] = chosen
    return found


def _pipeline_inputs(given: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Entry]:
    found = {name: _entry(each) for name, each in given.items() if each is not None}
    if not spec:
        return found
    declared = declared_inputs(spec)
    for name in found:
        if name not in declared:
            raise _bad(f"inputs.{name}", f"The component has no input '{name}' (it has {_listed(declared)}).")
    for name, wanted in declared.items():
        where = f"inputs.{name}"
        if name in found:
            found[name] = _as_declared(found[name], wanted, None, where)
        elif wanted.get("default") is not None:
            found[name] = {"jobInputType": "literal", "value": literal(wanted, str(wanted["default"]), where)}
        elif not wanted.get("optional"):
            raise _bad(where, f"The pipeline component needs the input '{name}'.")
    return found


def _step(name: str, node: Any, specs: Specs) -> Step:
    if not isinstance(node, dict):
        raise _bad(f"jobs.{name}", f"The step '{name}' is no object.")
    kind = str(node.get("type") or "command")
    for key in _OBJECTS:
        if kind != "automl" or key != "task":  # there it is a word: classification
            _object(node, key, f"jobs.{name}.")
    if kind in _REFUSED_STEPS:
        raise NotImplementedOperation(f"Jobs_CreateOrUpdate of a pipeline with the step '{name}' of type {kind}")
    if kind not in RUNNABLE_STEPS:
        raise _bad(f"jobs.{name}.type", f"The step '{name}' is of type {kind}; there are {', '.join(RUNNABLE_STEPS)}.")
    spec: Mapping[str, Any] = {}
    component = None
    if kind != "automl":
        holder = node.get("trial") if kind == "sweep" else node
        # REST's examples call it `component`, the SDK `componentId`.
        component = (holder or {}).get("componentId") or _reference((holder or {}).get("component"))
        if not component or not isinstance(component, str):
            raise _bad(f"jobs.{name}.componentId", f"The step '{name}' names no component.")
        spec = specs(component)
        wanted = "command" if kind == "sweep" else kind
        for key in _OBJECTS:
            _object(spec, key, f"The component of the step '{name}': ")
        if spec.get("type", "command") != wanted:
            raise _bad(f"jobs.{name}.componentId", f"The step '{name}' is of type {kind}, which takes a component of "
                       f"type {wanted}; its component is of type {spec.get('type')}.")  # fmt: skip
    if kind == "automl":
        for key in ("task", "primary_metric", "target_column_name"):
            if not isinstance(node.get(key) or "", str):
                raise _bad(f"jobs.{name}.{key}", f"jobs.{name}.{key} must be a text, not {json.dumps(node[key])}.")
    asked = {role: node[role] for role in DATA_ROLES if node.get(role)} if kind == "automl" else node.get("inputs")
    given = {key: _given(value) for key, value in (asked or {}).items() if value is not None}
    outputs = _sinks(name, node, spec)
    after = {source(path) for text in _texts(given, node) for scope, path in bindings(text) if scope == "jobs"}
    return Step(name, kind, node, spec, component, given, outputs, frozenset(found[0] for found in after if found))


def _sinks(name: str, node: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Sink]:
    declared = {key: value or {} for key, value in (spec.get("outputs") or {}).items()}
    found = {key: Sink(str(value.get("type") or "uri_folder"), mode=_mode(value.get("mode")))
             for key, value in declared.items()}  # fmt: skip
    for key, raw in (node.get("outputs") or {}).items():
        if spec and key not in declared:
            raise _bad(f"jobs.{name}.outputs.{key}", f"The component of the step '{name}' has no output '{key}' "
                       f"(it has {_listed(declared)}).")  # fmt: skip
        value = {"value": raw} if isinstance(raw, str) else _object(node["outputs"], key, f"jobs.{name}.outputs.")
        base = found.get(key) or Sink("mlflow_model" if key == "best_model" else "uri_folder")
        bound = whole(str(value.get("value") or ""))
        if value.get("value") and (bound is None or bound[0] != "outputs"):
            raise _bad(f"jobs.{name}.outputs.{key}", f"The output '{key}' of the step '{name}' is bound to "
                       f"'{value['value']}'; outputs are bound to ${{{{parent.outputs.<name>}}}}.")  # fmt: skip
        found[key] = Sink(
            kind=str(value.get("job_output_type") or value.get("jobOutputType") or base.kind),
            uri=value.get("uri"),
            mode=value.get("mode") or base.mode,
            name=value.get("name") or value.get("assetName") or value.get("asset_name"),
            version=_text(value.get("version") or value.get("assetVersion") or value.get("asset_version")),
            bound=bound[1] if bound else None,
        )
    return found


def _check_bindings(step: Step, inputs: Mapping[str, Entry], steps: Mapping[str, Step]) -> None:
    """Every binding of a step leads somewhere, and every input the component needs is given."""
    declared = step.declared
    for name, given in step.inputs.items():
        where = f"jobs.{step.name}.inputs.{name}"
        if step.spec and name not in declared:
            raise _bad(where, f"The component of the step '{step.name}' has no input '{name}' (it has "
                       f"{_listed(declared)}).")  # fmt: skip
        _check_text(given.text or "", where, inputs, steps, optional=_can_be_absent(declared.get(name, {})))
    for key, text in _other_texts(step.node):
        _check_text(text, f"jobs.{step.name}.{key}", inputs, steps, optional=False)
    for name, wanted in declared.items():
        if name not in step.inputs and not _can_be_absent(wanted) and not _searched(step, name):
            raise _missing(step, name)


def _check_text(
    text: str, where: str, inputs: Mapping[str, Entry], steps: Mapping[str, Step], *, optional: bool
) -> None:
    for match in _PARENT.finditer(text):
        if not _BINDING.fullmatch(match[0]):
            raise _bad(where, f"{where}: '{match[0]}' is no binding; there are ${{{{parent.inputs.<name>}}}} and "
                       "${{parent.jobs.<step>.outputs.<name>}}.")  # fmt: skip
    for scope, path in bindings(text):
        if scope == "inputs":
            if path not in inputs and not (optional and whole(text)):
                raise _bad(where, f"{where} is bound to the pipeline's input '{path}', which it hasn't got (it has "
                           f"{_listed(inputs)}).")  # fmt: skip
            continue
        found = source(path) if scope == "jobs" else None
        if found is None:
            raise _bad(where, f"{where} is bound to 'parent.{scope}.{path}'; there are ${{{{parent.inputs.<name>}}}} "
                       "and ${{parent.jobs.<step>.outputs.<name>}}.")  # fmt: skip
        if found[0] not in steps:
            raise _bad(where, f"{where} is bound to the step '{found[0]}', which the pipeline hasn't got (it has "
                       f"{_listed(steps)}).")  # fmt: skip
        if found[1] not in steps[found[0]].outputs:
            raise _bad(where, f"{where} is bound to the output '{found[1]}' of the step '{found[0]}', which it hasn't "
                       f"got (it has {_listed(steps[found[0]].outputs)}).")  # fmt: skip
        if not whole(text):
            raise _bad(where, f"{where}: '{text}' puts a step's output into a text; only literals can be.")


def _order(steps: Mapping[str, Step]) -> list[str]:
    try:
        return list(graphlib.TopologicalSorter({name: step.after for name, step in steps.items()}).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        first = error.args[1][0]
        raise _bad(f"jobs.{first}", f"The steps wait for each other in a circle: {circle}.") from None


def _settings(given: Mapping[str, Any], nodes: Mapping[str, Any]) -> Settings:
    snake = {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): value for key, value in given.items()}
    known = {key: value for key, value in snake.items() if key in _SETTINGS and value is not None}
    if unknown := sorted(key for key in set(snake) - _SETTINGS - _SETTINGS_IGNORED if snake[key] not in (None, False)):
        raise NotImplementedOperation(f"Jobs_CreateOrUpdate of a pipeline with settings.{unknown[0]}")
    if snake.get("continue_run_on_failed_optional_input"):
        raise NotImplementedOperation(
            "Jobs_CreateOrUpdate of a pipeline with settings.continue_run_on_failed_optional_input"
        )
    for key in ("continue_on_step_failure", "force_rerun"):
        if key in known:
            known[key] = _boolean(known[key], f"settings.{key}")
    for key in ("default_compute", "default_datastore", "on_init", "on_finalize"):
        if key in known and not isinstance(known[key], str):
            raise _bad(f"settings.{key}", f"settings.{key} must be a text, not {json.dumps(known[key])}.")
    for key in ("on_init", "on_finalize"):
        if key in known and known[key] not in nodes:
            raise _bad(f"settings.{key}", f"settings.{key} names the step '{known[key]}', which the pipeline hasn't "
                       f"got (it has {_listed(nodes)}).")  # fmt: skip
    return Settings(**known)


def _check_hooks(pipeline: Pipeline) -> None:
    """https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-pipeline: hooks stand alone."""
    for key in ("on_init", "on_finalize"):
        name = getattr(pipeline.settings, key)
        if name is None:
            continue
        readers = [step.name for step in pipeline.steps.values() if name in step.after]
        if pipeline.steps[name].after or readers:
            raise _bad(f"settings.{key}", f"settings.{key}: the step '{name}' must not be connected to other steps.")
    if len(pipeline.steps) == len({pipeline.settings.on_init, pipeline.settings.on_finalize} - {None}):
        raise _bad("jobs", "A pipeline needs a step beside on_init and on_finalize.")


def _given(raw: Any) -> Given:
    if isinstance(raw, str) and raw.startswith("{'"):
        # azure-ai-ml 1.35 sends an AutoML table that isn't bound as Python's own text of the object (measured).
        with contextlib.suppress(ValueError, SyntaxError):
            raw = ast.literal_eval(raw)
    if not isinstance(raw, dict):
        return Given(text=_text(raw))
    entry = _entry(raw)
    text = entry.get("value") if is_literal(entry) else entry["uri"]
    if is_literal(entry) or whole(str(text)):
        return Given(text=_text(text), mode=raw.get("mode"))
    return Given(entry=entry)


def _entry(raw: Any) -> Entry:
    """An ARM job input, from either spelling of its keys."""
    if not isinstance(raw, dict):
        return {"jobInputType": "literal", "value": _text(raw)}
    kind = raw.get("jobInputType") or raw.get("job_input_type") or raw.get("type")
    if raw.get("uri") or raw.get("path"):
        entry = {"jobInputType": kind or "uri_folder", "uri": raw.get("uri") or raw["path"]}
        return entry | ({"mode": raw["mode"]} if raw.get("mode") else {})
    return {"jobInputType": "literal", "value": _text(raw.get("value"))}


def _output(raw: Any) -> Entry:
    raw = raw or {}
    return {**raw, "jobOutputType": raw.get("jobOutputType") or raw.get("type") or "uri_folder"}


def _texts(given: Mapping[str, Given], node: Mapping[str, Any]) -> Iterator[str]:
    yield from (each.text for each in given.values() if each.text)
    yield from (text for _, text in _other_texts(node))


def _other_texts(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, text) of everything in a node but its inputs and outputs: settings can be bound as well."""

    def walk(value: Any, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            for name, each in value.items():
                yield from walk(each, f"{key}.{name}")
        elif isinstance(value, list):
            for each in value:
                yield from walk(each, key)

    for key, value in node.items():
        if key not in ("inputs", "outputs", *DATA_ROLES):
            yield from walk(value, key)


def _searched(step: Step, name: str) -> bool:
    """Whether a sweep gives the input its values."""
    return step.kind == "sweep" and name in (step.node.get("search_space") or {})


def _can_be_absent(wanted: Mapping[str, Any]) -> bool:
    return bool(wanted.get("optional")) or wanted.get("default") is not None


def _missing(step: Step, name: str) -> BadRequest:
    where = f"jobs.{step.name}.inputs.{name}"
    return _bad(where, f"The step '{step.name}' has no value for the input '{name}', which its component requires.")


def _mode(text: Any, mount: str = "ReadWriteMount") -> str | None:
    """A component's mode (`rw_mount`) as on the wire (`ReadWriteMount`). `mount` is what that word alone means."""
    return ({**_MODES, "mount": mount}).get(str(text), str(text)) if text else None


_MODES = {
    "ro_mount": "ReadOnlyMount", "rw_mount": "ReadWriteMount", "download": "Download", "upload": "Upload",
    "direct": "Direct", "eval_mount": "EvalMount", "eval_download": "EvalDownload",
}  # fmt: skip


def _boolean(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise _bad(where, f"{where} must be true or false, not '{value}'.")


def _reference(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _object(holder: Mapping[str, Any], key: str, before: str = "") -> dict[str, Any]:
    """`holder[key]`, which must be an object if it is there."""
    value = holder.get(key)
    if value is not None and not isinstance(value, dict):
        raise _bad(f"{before}{key}", f"{before}{key} must be an object, not {json.dumps(value)}.")
    return value or {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"


def _bad(where: str, message: str) -> BadRequest:
    return BadRequest(message, where, "UserError")
