"""Spark jobs: a Python entry file on a local Spark, standalone or as a step, serverless or on an attached pool.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-spark and .../how-to-submit-spark-jobs
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from localazure.core.errors import AzureError, BadRequest, NotImplementedOperation
from localazure.executors import bindings, spark_local
from localazure.executors.command import unpack_code, use_environment
from localazure.executors.job import AssetSource, JobFailed, RunningJob
from localazure.settings import Settings
from localazure.storage.locations import Location

_INSTANCE_TYPES = ("standard_e4s_v3", "standard_e8s_v3", "standard_e16s_v3", "standard_e32s_v3", "standard_e64s_v3")
_RUNTIME = re.compile(r"3\.\d+(\.\d+)?")
_PY_FILES = (".zip", ".egg", ".py")
_LISTS = ("pyFiles", "jars", "files", "archives")
_COUNTS = (
    "spark.driver.cores", "spark.executor.cores", "spark.executor.instances", "spark.dynamicAllocation.minExecutors",
    "spark.dynamicAllocation.maxExecutors",
)  # fmt: skip
_MEMORIES = ("spark.driver.memory", "spark.executor.memory")


class SparkRunner:
    """Runs the entry file with PySpark in the compute environment, its Spark no larger than `spark_local` has it."""

    def __init__(
        self,
        settings: Settings,
        assets: AssetSource,
        check_pool: Callable[[str, Mapping[str, str]], None] = lambda compute_id, conf: None,
    ) -> None:
        """`check_pool` raises for a configuration that the pool behind a compute's id can never run."""
        self._settings = settings
        self._assets = assets
        self._check_pool = check_pool

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner."""
        entry = properties.get("entry") or {}
        if entry.get("sparkJobEntryType") == "SparkJobScalaEntry" or entry.get("className"):
            raise NotImplementedOperation("Jobs_CreateOrUpdate of a Spark job with entry.class_name")
        if not str(entry.get("file") or "").strip():
            raise _bad("A Spark job needs entry.file", "entry")
        if not properties.get("codeId"):
            raise _bad("A Spark job needs code", "codeId")
        _check_where(properties)
        conf = properties.get("conf") or {}
        _conf(conf)
        if properties.get("computeId"):
            self._check_pool(properties["computeId"], {str(key): str(value) for key, value in conf.items()})
        for name, inner in (properties.get("inputs") or {}).items():
            if (inner or {}).get("jobInputType", "literal") != "literal":
                _check_mode("Input", name, inner)
        for name, inner in (properties.get("outputs") or {}).items():
            _check_mode("Output", name, inner or {})
        for path in properties.get("pyFiles") or []:
            if not path.lower().endswith(_PY_FILES):
                raise _bad(f"py_files are .zip, .egg or .py files, not '{path}'", "pyFiles")
        if properties.get("environmentId"):
            self._assets.environment(properties["environmentId"])

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """A Spark job has no time-out."""
        return None

    def nodes(self, properties: dict[str, Any]) -> int:
        """One: all of a job's Spark is one process."""
        return 1

    async def prepare(self, job: RunningJob) -> None:
        """Checks the environment, unpacks the code, writes the plan with every address in it."""
        await use_environment(job, job.properties.get("environmentId"))
        await unpack_code(job)
        properties, directory = job.properties, job.working_directory
        entry = directory / properties["entry"]["file"]
        if not entry.is_file():
            raise JobFailed(f"The entry file '{properties['entry']['file']}' is not in the code folder.")
        inputs = {
            name: await self._input(job, name, inner)
            for name, inner in (properties.get("inputs") or {}).items()
            if inner is not None
        }
        outputs = {}
        for name, output in job.outputs.items():
            # "direct ... passes in the storage location": Spark writes there itself.
            output["mode"] = "Direct"
            outputs[name] = self._address(await asyncio.to_thread(job.assets.location, str(output["uri"])))
        text = bindings.expand(properties.get("args") or "", {"inputs": inputs, "outputs": outputs})
        conf = _conf(properties.get("conf") or {})
        plan = {
            "entry": str(entry),
            "args": shlex.split(text),
            "conf": conf,
            "runtime": (properties.get("resources") or {}).get("runtimeVersion"),
            **{kind: [await self._file(job, kind, path) for path in properties.get(kind) or []] for kind in _LISTS},
        }
        (job.folder / "spark" / "tmp").mkdir(parents=True, exist_ok=True)
        (job.folder / "plan.json").write_text(json.dumps(plan, indent=2))
        asked = ", ".join(f"{key} {value}" for key, value in (properties.get("conf") or {}).items())
        job.note(f"Spark {conf['spark.master']}, {conf['spark.driver.memory']} (asked: {asked or 'nothing'})")

    async def execute(self, job: RunningJob) -> None:
        """Runs the entry file; JobFailed with the log's last lines unless it ends well."""
        more = {
            **spark_local.environment(self._settings, job.folder / "spark"),
            "LOCALAZURE_SESSION_FOLDER": str(job.folder / "spark"),
            "PYARROW_IGNORE_TIMEZONE": "1",  # pandas on Spark would warn about it in every job
            "LOCALAZURE_LAKE_DATASTORES": json.dumps(await asyncio.to_thread(job.assets.datastores)),
        }
        environment = job.environment(more)
        if packages := _packages(job):
            # As in the service: Spark is the runtime's, what the environment asks for lies on top.
            environment["PYTHONPATH"] += f":{packages}"
        argv = [str(self._settings.compute_python), "-m", "localazure_compute.spark_job", str(job.folder / "plan.json")]
        code = await job.run(argv, environment)
        if code != 0:
            how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
            file = job.properties["entry"]["file"]
            raise JobFailed(f"Execution failed: {file} {how}. Last lines of user_logs/std_log.txt:\n{job.last_lines()}")

    async def finalize(self, job: RunningJob) -> None:
        """Uploads what the script left in ./outputs and ./logs; its outputs are where Spark wrote them."""
        await bindings.upload(job, Location("azureml", f"ExperimentRun/dcid.{job.name}"))

    async def _input(self, job: RunningJob, name: str, entry: dict[str, Any]) -> str:
        if entry.get("jobInputType", "literal") == "literal":
            return str(entry.get("value", ""))
        uri = entry.get("uri")
        if not uri:
            raise JobFailed(f"The input '{name}' has no uri.")
        try:
            return self._address(await asyncio.to_thread(job.assets.location, uri))
        except AzureError as error:
            raise JobFailed(f"The input '{name}' can't be read: {error.message}") from error

    def _address(self, location: Location) -> str:
        account = self._settings.storage_account
        return f"abfss://{location.container}@{account}.dfs.core.windows.net/{location.path}"

    async def _file(self, job: RunningJob, kind: str, path: str) -> str:
        """A file of the code folder, or what an address leads to, as an absolute path; an archive's alias is kept."""
        name, mark, alias = path.partition("#")
        if "://" in name or name.startswith("azureml:"):
            found = await asyncio.to_thread(job.assets.resolve, name)
        else:
            found = (job.working_directory / name).resolve()
            if not found.is_relative_to(job.working_directory.resolve()) or not found.is_file():
                raise JobFailed(f"'{path}' ({_snake(kind)}) is not in the code folder.")
        return f"{found}{mark}{alias}"


def _packages(job: RunningJob) -> Path | None:
    """The site-packages of the job's environment, None if it is the compute environment's own."""
    if job.python == job.settings.compute_python:
        return None
    found = next(iter(sorted(job.python.parent.parent.glob("lib/python3*/site-packages"))), None)
    own = next(iter(sorted(job.settings.compute_python.parent.parent.glob("lib/python3*"))), None)
    if found is None or own is None or found.parent.name != own.name:
        raise JobFailed(
            f"The environment of a Spark job must have the Python of Spark's own runtime ({own and own.name}), not "
            f"{found and found.parent.name}."
        )
    return found


def _check_where(properties: dict[str, Any]) -> None:
    resources = properties.get("resources") or {}
    # The vendor's words.
    if not properties.get("computeId") and not resources:
        raise _bad("One of either compute or resources must be specified for Spark job", "resources")
    if properties.get("computeId") and resources:
        raise _bad("Only one of either compute or resources may be specified for Spark job", "resources")
    if not resources:
        return
    if str(resources.get("instanceType") or "").lower() not in _INSTANCE_TYPES:
        raise _bad(f"Instance type must be specified for the list of {','.join(_INSTANCE_TYPES)}", "resources")
    version = resources.get("runtimeVersion")
    if version and not _RUNTIME.fullmatch(str(version)):
        raise _bad(f"runtime_version must be a version of Spark 3 such as 3.4, not '{version}'", "resources")


def _check_mode(what: str, name: str, entry: dict[str, Any]) -> None:
    if name != "default" and entry.get("mode") not in (None, "Direct"):
        raise _bad(f"{what} '{name}' is using '{entry['mode']}' mode, only 'direct' is supported for Spark job", name)


def _conf(asked: dict[str, Any]) -> dict[str, str]:
    """The configuration of the local Spark. Sizes are checked and bounded; what can't be honoured is refused."""
    conf = {str(key): str(value) for key, value in asked.items()}
    for key in _COUNTS:
        if key in conf and not conf[key].isdecimal():
            raise _bad(f"{key} must be a whole number, not '{conf[key]}'", "conf")
    sizes = {key: spark_local.bounded_megabytes(conf[key]) for key in _MEMORIES if key in conf}
    for key, size in sizes.items():
        if size is None:
            raise _bad(f"{key} must be a size such as \"2g\", not '{conf[key]}'", "conf")
    fewest = conf.get("spark.dynamicAllocation.minExecutors")
    most = conf.get("spark.dynamicAllocation.maxExecutors")
    if conf.get("spark.dynamicAllocation.enabled", "").lower() == "true":
        if fewest is None or most is None:
            raise _bad(
                "spark.dynamicAllocation.minExecutors and spark.dynamicAllocation.maxExecutors are required when "
                "dynamic allocation is enabled",
                "conf",
            )
        if not 0 < int(fewest) <= int(most):
            raise _bad(
                "Dynamic min executors should be bigger than 0 and min executors should be equal or less than max "
                "executors",
                "conf",
            )
    executors = int(most or conf.get("spark.executor.instances") or 1)
    cores = int(conf.get("spark.executor.cores") or spark_local.CORES) * executors
    found = {
        **spark_local.BASE,
        "spark.master": f"local[{max(1, min(spark_local.CORES, cores))}]",
        "spark.driver.memory": f"{sizes.get('spark.driver.memory') or spark_local.MEMORY_MB}m",
    }
    for key, text in conf.items():
        if spark_local.REFUSED.match(key):
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate of a Spark job with conf {key}")
        if not spark_local.SIZES.match(key):
            found[key] = text
    return found


def _snake(name: str) -> str:
    return re.sub("([A-Z])", r"_\1", name).lower()


def _bad(message: str, target: str) -> AzureError:
    return BadRequest(f"{message}.", target, "UserError")
