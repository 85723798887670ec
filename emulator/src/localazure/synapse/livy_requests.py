"""What a client asks of Livy: the payload of a batch or a session, checked and typed. Pure.

Shapes: SparkBatchJobOptions and SparkSessionOptions in Azure/azure-rest-api-specs, specification/synapse/data-plane/
Microsoft.Synapse/preview/2019-11-01-preview/sparkJob.json; https://livy.apache.org/docs/latest/rest-api.html.
Every refusal names the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors import spark_local
from localazure.synapse.capacity import Size

#: Synapse Studio's defaults on a pool of small nodes: a driver and two executors, a node each.
_CORES = 4
_MEMORY = "28g"
_EXECUTORS = 2
_TEXTS = ("name", "file", "className", "artifactId", "driverMemory", "executorMemory")
_LISTS = ("args", "jars", "pyFiles", "files", "archives")
_NUMBERS = ("driverCores", "executorCores", "numExecutors")
_MAPS = ("conf", "tags")
_KNOWN = frozenset({*_TEXTS, *_LISTS, *_NUMBERS, *_MAPS})
#: Livy has them; Synapse decides them itself.
_REFUSED = ("proxyUser", "queue")
_MEMORY_TEXT = re.compile(r"^(\d+)\s*([kmgt])b?$", re.IGNORECASE)
_MEGABYTES = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
_CONF_SIZES = {
    "driverCores": "spark.driver.cores",
    "driverMemory": "spark.driver.memory",
    "executorCores": "spark.executor.cores",
    "executorMemory": "spark.executor.memory",
    "numExecutors": "spark.executor.instances",
}


@dataclass(frozen=True)
class LivyRequest:
    """A checked payload. Lists and maps may be empty; `size` is what the pool has to give."""

    name: str
    file: str
    class_name: str
    artifact_id: str
    args: list[str]
    jars: list[str]
    py_files: list[str]
    files: list[str]
    archives: list[str]
    conf: dict[str, str]
    tags: dict[str, str]
    size: Size
    #: As the client sent it, but for tags and artifactId: what `livyInfo.jobCreationRequest` shows.
    wire: dict[str, Any] = field(repr=False)

    @property
    def is_python(self) -> bool:
        """Whether the main file is a Python script; else it is a jar."""
        return self.file.lower().partition("?")[0].endswith(".py")


def parse(body: Any, operation: str, *, is_batch: bool, more: frozenset[str] = frozenset()) -> LivyRequest:
    """Read a payload; `more` are keys that belong to the caller.

    Raises BadRequest naming the field, NotImplementedOperation (with the `operation`) for what can't be honoured.
    """
    if not isinstance(body, dict):
        raise BadRequest("The body must be an object.")
    for key in _REFUSED:
        if body.get(key):
            raise NotImplementedOperation(f"{operation} with {key}")
    if unknown := sorted(set(body) - _KNOWN - more - set(_REFUSED)):
        raise BadRequest(f"Unrecognized field '{unknown[0]}'; there are {', '.join(sorted(_KNOWN))}.", unknown[0])
    texts = {key: _text(body, key) for key in _TEXTS}
    lists = {key: _list(body, key) for key in _LISTS}
    maps = {key: _map(body, key) for key in _MAPS}
    if not texts["name"]:
        raise BadRequest("name is required.", "name")
    if is_batch:
        _check_main(texts["file"], texts["className"])
    for key in maps["conf"]:
        if spark_local.REFUSED.match(key):
            raise NotImplementedOperation(f"{operation} with conf[{key!r}]")
    return LivyRequest(
        name=texts["name"],
        file=texts["file"],
        class_name=texts["className"],
        artifact_id=texts["artifactId"],
        args=lists["args"],
        jars=lists["jars"],
        py_files=lists["pyFiles"],
        files=lists["files"],
        archives=lists["archives"],
        conf=maps["conf"],
        tags=maps["tags"],
        size=size(body, maps["conf"]),
        wire={key: value for key, value in body.items() if key in _KNOWN - {"tags", "artifactId"}},
    )


def spark_conf(request: LivyRequest) -> dict[str, str]:
    """The configuration of the local Spark: sizes bounded (`executors.spark_local`), the rest as asked."""
    cores = request.size.driver_cores + request.size.executor_cores * request.size.executors
    return {
        **spark_local.BASE,
        "spark.master": f"local[{max(1, min(spark_local.CORES, cores))}]",
        "spark.driver.memory": f"{driver_megabytes(request)}m",
        "spark.app.name": request.name,
        **{key: text for key, text in request.conf.items() if not spark_local.SIZES.match(key)},
    }


def driver_megabytes(request: LivyRequest) -> int:
    """The driver's memory here: what was asked, within what there is."""
    return spark_local.bounded_megabytes(f"{request.size.driver_mb}m") or spark_local.MEMORY_MB


def size(options: Mapping[str, Any], conf: Mapping[str, str], prefix: str = "") -> Size:
    """What a job needs of its pool, by its own fields, else its configuration, else Studio's defaults.

    With dynamic allocation the fewest executors are what it starts with. `prefix` stands before a field's name in
    errors. Raises BadRequest.
    """

    def value(key: str, default: Any) -> tuple[Any, str]:
        if options.get(key) is not None:
            return options[key], prefix + key
        setting = _CONF_SIZES[key]
        return conf.get(setting, default), f"{prefix}conf[{setting!r}]"

    def number(key: str, default: int, least: int) -> int:
        found, where = value(key, default)
        # JSON has numbers, configuration has texts.
        if isinstance(found, str) and not where.endswith("]"):
            raise BadRequest(f"{where} must be a whole number of at least {least}, not {found!r}.", where)
        return _count(found, where, least)

    def memory(key: str) -> int:
        found, where = value(key, _MEMORY)
        match = _MEMORY_TEXT.match(found) if isinstance(found, str) else None
        if match is None:
            raise BadRequest(f'{where} must be a size like "28g", not {found!r}.', where)
        return int(int(match[1]) * _MEGABYTES[match[2].lower()])

    executors = number("numExecutors", _EXECUTORS, 0)
    if conf.get("spark.dynamicAllocation.enabled", "").lower() == "true":
        fewest = "spark.dynamicAllocation.minExecutors"
        executors = _count(conf.get(fewest, executors), f"{prefix}conf[{fewest!r}]", 0)
    return Size(
        driver_cores=number("driverCores", _CORES, 1),
        driver_mb=memory("driverMemory"),
        executor_cores=number("executorCores", _CORES, 1),
        executor_mb=memory("executorMemory"),
        executors=executors,
    )


def _count(found: Any, where: str, least: int) -> int:
    text = str(found)
    if isinstance(found, bool) or not text.isdecimal() or int(text) < least:
        raise BadRequest(f"{where} must be a whole number of at least {least}, not {found!r}.", where)
    return int(text)


def _check_main(file: str, class_name: str) -> None:
    if not file:
        raise BadRequest("file is required: the address of the main file in the lake.", "file")
    path = file.lower().partition("?")[0]
    if not path.endswith((".py", ".jar")):
        raise BadRequest(f"file must be a .py or a .jar, not {file!r}.", "file")
    if path.endswith(".jar") and not class_name:
        raise BadRequest("className is required with a .jar: the class whose main is run.", "className")


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{key} must be text, not {value!r}.", key)
    return value or ""


def _list(body: Mapping[str, Any], key: str) -> list[str]:
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"{key} must be a list of texts, not {value!r}.", key)
    return value


def _map(body: Mapping[str, Any], key: str) -> dict[str, str]:
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str | int | float) for item in value.values()):
        raise BadRequest(f"{key} must be an object of texts, not {value!r}.", key)
    # JSON's true becomes Spark's.
    return {name: str(item).lower() if isinstance(item, bool) else str(item) for name, item in value.items()}
