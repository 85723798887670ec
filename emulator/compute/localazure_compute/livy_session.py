"""The interpreter of a Livy session: `python -m localazure_compute.livy_session <folder>`.

One process, one SparkSession; statements run one after the other in Python, Spark SQL or Scala and share it. Files in
`folder` are the whole protocol; each is replaced as a whole:

    plan.json      read    {"conf", "pyFiles", "jars", "files", "archives", "driverMegabytes"}
    status.json    written {"state": "starting"|"idle"|"busy", "appId"}
    <n>.json       read    {"kind": "pyspark"|"sql"|"spark", "code"}, n = 0, 1, ...
    <n>.out.json   written the statement's output as Livy shows it; {"status": "cancelled"} after SIGINT

Outputs: https://livy.apache.org/docs/latest/rest-api.html#statement-output. It ends with its parent, or on SIGTERM.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import decimal
import io
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localazure_compute import livy_magics, parents, spark_job

POLL = 0.05
SQL_ROWS = 1000


class Interpreter:
    """Runs statements; one at a time."""

    def __init__(self, spark: Any, names: dict[str, Any], scala_folder: Path) -> None:
        self._spark = spark
        self._names = {"__name__": "__main__", **names}
        self._scala_folder = scala_folder
        self._scala: ScalaShell | None = None
        self._running = False
        self._interrupted = False

    def run(self, kind: str, code: str, number: int) -> dict[str, Any]:
        """The output of a statement. Nothing a statement raises gets out."""
        languages: dict[str, Callable[[str], dict[str, Any]]] = {
            "pyspark": self._python,
            "sql": self._sql,
            "spark": self._run_scala,
        }
        try:
            try:
                self._running, self._interrupted = True, False
                output = {"status": "ok", "data": languages[kind](code)}
            finally:
                self._running = False  # an interruption that comes here is caught below
        except ScalaError as error:
            output = _error("Error", str(error), error.lines)
        except BaseException as error:
            output = _error(type(error).__name__, str(error), _traceback(error))
        # Py4J turns the interruption of a call into an error of its own.
        return {"status": "cancelled"} if self._interrupted else output | {"execution_count": number}

    def interrupt(self, _signal: int, _frame: Any) -> None:
        """The handler of SIGINT: cancel the running statement, once, and nothing else."""
        if self._running and not self._interrupted:
            self._interrupted = True
            self._spark.sparkContext.cancelAllJobs()
            raise KeyboardInterrupt

    def _python(self, code: str) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            shown = self._execute(code)
        return shown or {"text/plain": printed.getvalue().rstrip("\n")}

    def _execute(self, code: str) -> dict[str, Any] | None:
        """Run the code; the last expression's value is printed, or (a magic) is the output."""
        lines = code.strip().splitlines()
        if lines and lines[-1].startswith("%"):
            self._execute("\n".join(lines[:-1]))
            return livy_magics.output(lines[-1], self._names)
        body = ast.parse(code, "<stdin>").body
        last = [ast.Interactive([body.pop()])] if body and isinstance(body[-1], ast.Expr) else []
        exec(compile(ast.Module(body, []), "<stdin>", "exec"), self._names)
        for each in last:
            exec(compile(each, "<stdin>", "single"), self._names)
        return None

    def _sql(self, code: str) -> dict[str, Any]:
        frame = self._spark.sql(code.strip().rstrip(";"))
        rows = [[_json(value) for value in row] for row in frame.take(SQL_ROWS)]
        return {"application/json": {"schema": json.loads(frame.schema.json()), "data": rows}}

    def _run_scala(self, code: str) -> dict[str, Any]:
        from localazure_compute import spark_catalogue  # with PySpark, which `prepare` makes importable

        if self._scala is None:
            if spark_catalogue.is_attached():
                spark_catalogue.current().mount_all()
            self._scala = ScalaShell(self._spark, self._scala_folder)
        return {"text/plain": self._scala.run(code)}


class ScalaError(Exception):
    """A statement in Scala failed; the shell's words."""

    def __init__(self, text: str) -> None:
        first, *self.lines = text.strip().splitlines() or ["incomplete statement"]
        super().__init__(first)


class ScalaShell:
    """Scala's own interpreter (the spark-shell's) in the session's JVM, sharing its SparkSession.

    `folder` is where its classes go: the session must have been started with it as `spark.repl.class.outputDir`.
    """

    def __init__(self, spark: Any, folder: Path) -> None:
        self._jvm = jvm = spark._jvm
        self._text = jvm.java.io.StringWriter()
        settings = jvm.scala.tools.nsc.Settings()
        path = jvm.java.lang.System.getProperty("java.class.path")
        options = self._list("-Yrepl-class-based", "-Yrepl-outdir", str(folder), "-classpath", path)
        settings.processArguments(options, True)
        self._shell = jvm.scala.tools.nsc.interpreter.IMain(settings, jvm.java.io.PrintWriter(self._text, True))
        self._shell.initializeSynchronous()
        session = "org.apache.spark.sql.SparkSession"
        self._shell.bind("spark", session, spark._jsparkSession, self._list("@transient"))
        context = "org.apache.spark.SparkContext"
        self._shell.bind("sc", context, spark._jsc.sc(), self._list("@transient"))
        self.run("import spark.implicits._; import spark.sql; import org.apache.spark.sql.functions._")

    def run(self, code: str) -> str:
        """What the statement printed, and the shell's answer to it. Raises ScalaError."""
        printed = self._jvm.java.io.ByteArrayOutputStream()
        stream = self._jvm.java.io.PrintStream(printed, True, "UTF-8")
        self._text.getBuffer().setLength(0)
        # Of this connection's thread, which is the one that interprets.
        console = self._jvm.scala.Console
        before = console.out()
        console.setOut(stream)
        try:
            result = self._shell.interpret(code).toString()
        finally:
            console.setOut(before)
        said = str(self._text.toString())
        if result != "Success":
            raise ScalaError(said if result == "Error" else "<console>: error: incomplete statement")
        return f"{printed.toString('UTF-8')}{said}".rstrip("\n")

    def _list(self, *texts: str) -> Any:
        array = self._jvm.java.util.ArrayList()
        for text in texts:
            array.add(text)
        return self._jvm.scala.collection.JavaConverters.asScalaBufferConverter(array).asScala().toList()


def main(folder: Path) -> None:
    """Serve statements until the process is ended."""
    _write(folder / "status.json", {"state": "starting"})
    plan = json.loads((folder / "plan.json").read_text())
    scala = folder / "tmp" / "scala"
    scala.mkdir(parents=True)
    plan["conf"]["spark.repl.class.outputDir"] = str(scala)
    threading.Thread(target=parents.follow, args=(parents.parent(),), daemon=True).start()
    spark_job.prepare(plan)
    from pyspark.sql import SparkSession

    import mssparkutils
    import notebookutils

    spark = SparkSession.builder.getOrCreate()
    if plan.get("driverMegabytes"):
        spark_job.bound_memory(plan["driverMegabytes"])
    names = {"spark": spark, "sc": spark.sparkContext, "notebookutils": notebookutils, "mssparkutils": mssparkutils}
    interpreter = Interpreter(spark, names, scala)
    signal.signal(signal.SIGINT, interpreter.interrupt)
    number = 0
    while True:
        _write(folder / "status.json", {"state": "idle", "appId": spark.sparkContext.applicationId})
        request = folder / f"{number}.json"
        while not request.exists():
            time.sleep(POLL)
        _write(folder / "status.json", {"state": "busy", "appId": spark.sparkContext.applicationId})
        statement = json.loads(request.read_text())
        _write(folder / f"{number}.out.json", interpreter.run(statement["kind"], statement["code"], number))
        number += 1


def _error(name: str, value: str, lines: list[str]) -> dict[str, Any]:
    return {"status": "error", "ename": name, "evalue": value, "traceback": lines}


def _traceback(error: BaseException) -> list[str]:
    """The traceback from the statement's own first frame on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != "<stdin>":
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return [f"{line}\n" for line in "".join(lines).splitlines()]


def _json(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.datetime):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _write(path: Path, document: dict[str, Any]) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(document))
    draft.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
