"""Synapse Spark from Airflow: the repository's notebooks, batches, Spark job definitions; each run exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from azflow import notebook_files, notebook_runs, spark_batches, spark_files
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError
from azflow.prepare_steps import ExecutorSize
from azflow.runs import NOTEBOOK_RUN, Alphabet, RemoteRunOperator, RemoteRuns, RunsReference
from azflow.spark_files import JobFile
from azflow.specs import INCLUDE

if TYPE_CHECKING:
    from airflow.sdk import Context

_MAIN = (".py", ".jar")
_PYTHON = (".py", ".zip", ".egg", ".whl")
#: A batch's lists of files: operator's parameter -> Livy's name, what their names end in.
_LISTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "py_files": ("pyFiles", _PYTHON),
    "files": ("files", ()),
    "jars": ("jars", (".jar",)),
    "archives": ("archives", ()),
}


def _pool(conn_id: str, spark_pool: str | None) -> str:
    """The pool a task runs on. Raises ConfigurationError if neither task nor connection names one."""
    if pool := spark_pool or AzureConnection.load(conn_id).spark_pool:
        return pool
    raise ConfigurationError(f"Connection {conn_id!r} lacks the extra spark_pool, and the task names none.")


class SynapseNotebookOperator(RemoteRunOperator):
    """Runs a notebook on a Synapse Spark pool, exactly once.

    The notebook is published under a name made of its content, and so are the notebooks of the repository that it runs
    by ``%run`` or ``notebook.run``; their names in it are rewritten. A notebook that ``%run`` names and that is in
    neither place is an error before anything runs.

    XCom: ``{"run_id", "status", "exit_value", "session_id", "spark_pool", "url", "notebook"}``; the exit value is
    parsed if it is JSON.

    :param notebook: the file, relative to include/spark/notebooks.
    :param spark_pool: default: the connection's.
    :param parameters: ``{name: value}`` or ``{name: {"type", "value"}}``; text is a template. A value must be of the
        type that the notebook's cell of parameters (tagged ``parameters``) gives the name; text from a template is read
        as that type.
    :param executor_size: Small, Medium, Large, XLarge or XXLarge; the driver has it, too. Default: the notebook's own
        session properties, else the pool's.
    :param executors: how many.
    :param conf: Spark's configuration for the session.
    :param session_options: more of the session in the service's own words (camelCase); they win over the sizes.
    """

    service = notebook_runs.SERVICE
    alphabet: ClassVar[Alphabet] = NOTEBOOK_RUN
    template_fields = ("notebook", "spark_pool", "parameters", "conf", "session_options")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "parameters": "json",
        "conf": "json",
        "session_options": "json",
    }
    ui_color = "#fdebd8"

    def __init__(
        self,
        *,
        notebook: str,
        spark_pool: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        executor_size: ExecutorSize | None = None,
        executors: int | None = None,
        conf: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.notebook = notebook
        self.spark_pool = spark_pool
        self.parameters = dict(parameters or {})
        self.executor_size = executor_size
        self.executors = executors
        self.conf = dict(conf or {})
        self.session_options = dict(session_options or {})

    def remote_runs(self) -> RunsReference:
        """The workspace's notebook runs."""
        return RunsReference("azflow.notebook_runs.SynapseNotebookRuns")

    def payload(self, context: Context) -> dict[str, Any]:
        """Notebook, content, what it runs, pool, typed parameters, the session's size."""
        pool = _pool(self.conn_id, self.spark_pool)
        bundle = notebook_files.bundle(INCLUDE / "spark" / "notebooks", self.notebook)
        shown = f"{notebook_files.FOLDER}/{self.notebook}"
        declared = notebook_files.declared_parameters(bundle.content)
        return {
            "notebook": bundle.name,
            "content": bundle.content,
            "others": bundle.others,
            "expected": bundle.expected,
            "spark_pool": pool,
            "parameters": notebook_files.typed_parameters(self.parameters, shown, declared),
            "session_options": {
                **spark_files.sizes(self.executor_size, self.executors, self.conf),
                **self.session_options,
            },
        }

    def outcome(self, context: Context, result: dict[str, Any]) -> dict[str, Any]:
        """The run's result, and which file it was."""
        return {**result, "notebook": self.notebook}


class SparkBatchOperator(RemoteRunOperator):
    """Runs a Spark application on a Synapse Spark pool, exactly once: a file of the repository, or what a Spark job
    definition of the workspace describes.

    Files below include/spark/jobs are uploaded to the lake under names made of their content; addresses are taken as
    they are. While the task waits in its worker, its log has what the driver prints.

    A definition's application is submitted as a batch of this task's name, not by the definition's ``execute``: that
    takes neither a name nor tags, so what it started couldn't be found again after a crash.

    XCom: ``{"id", "name", "app_id", "state", "result", "spark_pool", "url", "file"}``.

    :param file: the application, relative to include/spark/jobs or an address; ``.py``, or ``.jar`` with `class_name`.
    :param definition: instead of `file`: the name of a Spark job definition. The other parameters, where given, replace
        what it says; `conf` is merged.
    :param arguments: of the application, templates; numbers and flags become text.
    :param py_files: modules and packages beside it: ``.py``, ``.zip``, ``.egg``, ``.whl``, or a folder of a package.
    :param files: put into the working directory of each executor.
    :param jars: on the class path.
    :param archives: unpacked in the working directory of each executor; ``name.zip#folder``.
    :param class_name: of a ``.jar``.
    :param conf: Spark's configuration.
    :param executor_size: Small, Medium, Large, XLarge or XXLarge; the driver has it, too. Default: the pool's.
    :param executors: how many.
    :param spark_pool: default: the connection's.
    """

    service = spark_batches.SERVICE
    alphabet: ClassVar[Alphabet] = Alphabet()
    template_fields = (
        *("file", "definition", "arguments", "py_files", "files", "jars", "archives", "class_name"),
        *("conf", "spark_pool"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"arguments": "json", "conf": "json"}
    ui_color = "#fdebd8"

    def __init__(
        self,
        *,
        file: str = "",
        definition: str = "",
        arguments: Sequence[Any] | None = None,
        py_files: Sequence[str] = (),
        files: Sequence[str] = (),
        jars: Sequence[str] = (),
        archives: Sequence[str] = (),
        class_name: str = "",
        conf: Mapping[str, Any] | None = None,
        executor_size: ExecutorSize | None = None,
        executors: int | None = None,
        spark_pool: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.file = file
        self.definition = definition
        self.arguments = None if arguments is None else list(arguments)
        self.py_files = list(py_files)
        self.files = list(files)
        self.jars = list(jars)
        self.archives = list(archives)
        self.class_name = class_name
        self.conf = dict(conf or {})
        self.executor_size = executor_size
        self.executors = executors
        self.spark_pool = spark_pool
        self._uploads: list[JobFile] = []

    def remote_runs(self) -> RunsReference:
        """The batches of the task's pool."""
        return RunsReference("azflow.spark_batches.SparkBatches", {"spark_pool": _pool(self.conn_id, self.spark_pool)})

    def payload(self, context: Context) -> dict[str, Any]:
        """The batch in Livy's words, but for name and tags."""
        if bool(self.file) == bool(self.definition):
            raise ConfigurationError("A Spark batch needs either a file or a definition.")
        connection = AzureConnection.load(self.conn_id)
        root = INCLUDE / "spark" / "jobs"
        batch = self._defined(connection) if self.definition else {}
        self._uploads = []

        def placed(name: str, suffixes: tuple[str, ...]) -> str:
            file = spark_files.job_file(connection, root, name, suffixes=suffixes)
            self._uploads.append(file)
            return file.url

        if self.file:
            batch["file"] = placed(self.file, _MAIN)
        for parameter, (key, suffixes) in _LISTS.items():
            if names := getattr(self, parameter):
                batch[key] = [placed(str(name), suffixes) for name in names]
        if self.arguments is not None:
            batch["args"] = [_argument(each) for each in self.arguments]
        if self.class_name:
            batch["className"] = self.class_name
        if PurePosixPath(self.file).suffix == ".jar" and not batch.get("className"):
            raise ConfigurationError(f"{self.file} is a jar: class_name must say which class to run.")
        more = spark_files.sizes(self.executor_size, self.executors, self.conf)
        more["conf"] = {**(batch.get("conf") or {}), **more.get("conf", {})}
        return {"batch": {**batch, **more}}

    def before_submit(self, context: Context, runs: RemoteRuns, payload: Mapping[str, Any]) -> None:
        """The files have to be there before the batch is."""
        for blob in spark_files.upload(AzureConnection.load(self.conn_id), self._uploads):
            self.log.info("uploaded %s", blob)

    def follow(self, runs: RemoteRuns, run_id: str) -> None:
        """What the driver prints."""
        assert isinstance(runs, spark_batches.SparkBatches)
        for line in runs.follow(run_id, self.progress):
            self.log.info("driver | %s", line)

    def outcome(self, context: Context, result: dict[str, Any]) -> dict[str, Any]:
        """The batch's result, and which application it was."""
        return {**result, "file": self.file or self.definition}

    def _defined(self, connection: AzureConnection) -> dict[str, Any]:
        """What the definition says, as a batch.

        :raises ConfigurationError: there is none of that name, or it is for another pool than the task's.
        """
        pool = _pool(self.conn_id, self.spark_pool)
        runs = spark_batches.SparkBatches(connection, pool)
        try:
            properties = runs.definition(self.definition)
        finally:
            runs.close()
        target = str((properties.get("targetBigDataPool") or {}).get("referenceName") or "")
        if self.spark_pool is None and target and target != pool:
            raise ConfigurationError(
                f"The Spark job definition {self.definition!r} is for the pool {target}, the connection's is {pool}. "
                f"Say which by spark_pool."
            )
        job = {key: value for key, value in (properties.get("jobProperties") or {}).items() if value is not None}
        job.pop("name", None)
        return {**job, "artifactId": self.definition}


def _argument(value: object) -> str:
    """An argument as the application gets it. Raises ConfigurationError for what isn't a plain value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigurationError(f"The argument {value!r} is a {type(value).__name__}; use text, numbers or flags.")
