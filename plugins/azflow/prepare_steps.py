"""The steps of a model.yml's `prepare`: T-SQL files, notebooks, Spark jobs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from azflow import notebook_files
from azflow.errors import ConfigurationError, SpecError
from azflow.spec_parts import Minutes, Name, ParameterValue, Part, Text, as_tuple, below_include

#: Of the executors and the driver of a Spark session or batch; `azflow.spark_files` says how large they are.
ExecutorSize = Literal["Small", "Medium", "Large", "XLarge", "XXLarge"]


class _PrepareStep(Part):
    """One step of `prepare`.

    :ivar after: steps it waits for; None: the step before it in the file.
    """

    name: Name
    after: tuple[Name, ...] | None = None
    timeout_minutes: Minutes = 120

    _after = field_validator("after", mode="before")(as_tuple)


class SqlStep(_PrepareStep):
    """A T-SQL file below include/sql, run statement by statement.

    :ivar sql_pool: ``serverless`` has its own address and rules, and is paid by what its queries process.
    :ivar database: None: the connection's for that pool.
    :ivar max_data_processed_mb: what the file's queries may process on a serverless pool.
    :ivar deferrable: a triggerer holds the connection while the file runs, and no worker.
    """

    sql: Text
    parameters: Mapping[str, ParameterValue] = {}
    sql_pool: Literal["dedicated", "serverless"] = "dedicated"
    database: Text | None = None
    max_data_processed_mb: Annotated[float, Field(gt=0)] | None = None
    workload_context: Text | None = None
    check_tables: bool = False
    deferrable: bool = False

    _sql = field_validator("sql")(below_include("sql", ".sql"))

    @model_validator(mode="after")
    def _keys_of_the_pool(self) -> SqlStep:
        """What only the other kind of pool has is a mistake, not something to ignore."""
        if self.sql_pool == "dedicated" and self.max_data_processed_mb is not None:
            raise ValueError("max_data_processed_mb is for sql_pool: serverless; a dedicated pool isn't paid by query")
        if self.deferrable and (self.sql_pool == "serverless" or self.check_tables):
            raise ValueError("deferrable is for a dedicated pool, and without check_tables")
        if self.sql_pool == "serverless" and (self.workload_context is not None or self.check_tables):
            raise ValueError("workload_context and check_tables are for a dedicated pool; a serverless one has neither")
        return self


class _SparkStep(_PrepareStep):
    """What runs on a Synapse Spark pool; sizes that aren't given are left to the pool."""

    spark_pool: Text | None = None  # None: the connection's
    executor_size: ExecutorSize | None = None
    executors: Annotated[int, Field(ge=1, le=200)] | None = None
    conf: Mapping[Text, ParameterValue] = {}

    def session(self) -> dict[str, Any]:
        """Pool, sizes and time-out, those that are given."""
        kept = self.model_dump(include={"spark_pool", "executor_size", "executors", "conf"}, exclude_defaults=True)
        return {**kept, "timeout_minutes": self.timeout_minutes}


class TypedParameter(Part):
    """A parameter of a notebook that says its type: where the notebook's default doesn't, or says another."""

    type: Literal["string", "int", "float", "bool"]
    value: ParameterValue


class NotebookStep(_SparkStep):
    """A notebook below include/spark/notebooks, run on a Synapse Spark pool."""

    notebook: Text
    parameters: Mapping[Text, ParameterValue | TypedParameter] = {}

    _notebook = field_validator("notebook")(below_include("spark/notebooks", ".ipynb"))

    @model_validator(mode="after")
    def _parameters_fit(self, info: ValidationInfo) -> NotebookStep:
        """The notebook declares them, of their types; what a template will be is seen when the step runs."""
        root = (info.context or {}).get("include")
        if root is None:
            return self
        try:
            found = notebook_files.bundle(Path(root) / "spark" / "notebooks", self.notebook)
            declared = notebook_files.declared_parameters(found.content)
            plain = {name: value for name, value in self.plain_parameters().items() if "{{" not in str(value)}
            unknown = dict.fromkeys(set(self.parameters) - set(declared if declared is not None else self.parameters))
            notebook_files.typed_parameters(plain | unknown, f"include/spark/notebooks/{self.notebook}", declared)
        except SpecError as problem:
            raise ValueError(str(problem)) from None
        except ConfigurationError as problem:
            raise ValueError(str(problem).rstrip(".")) from None
        return self

    def plain_parameters(self) -> dict[str, Any]:
        """As the operator takes them."""
        return {
            name: value.model_dump() if isinstance(value, TypedParameter) else value
            for name, value in self.parameters.items()
        }


class SparkJobStep(_SparkStep):
    """A Spark application below include/spark/jobs, run as a batch on a Synapse Spark pool.

    :ivar arguments: of the application; text is a template.
    :ivar py_files: modules, zips or folders of packages beside it.
    :ivar files: put into the working directory of each executor.
    """

    spark_job: Text
    arguments: tuple[ParameterValue, ...] = ()
    py_files: tuple[Text, ...] = ()
    files: tuple[Text, ...] = ()
    class_name: Text | None = None

    _lists = field_validator("arguments", "py_files", "files", mode="before")(as_tuple)
    _file = field_validator("spark_job")(below_include("spark/jobs", ""))

    @field_validator("py_files", "files")
    @classmethod
    def _below_jobs(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        check = below_include("spark/jobs", "")
        return tuple(name if "://" in name else check(name, info) for name in value)

    @model_validator(mode="after")
    def _jar_or_python(self) -> SparkJobStep:
        if not self.spark_job.endswith((".py", ".jar")):
            raise ValueError("spark_job must end in .py or .jar")
        if self.spark_job.endswith(".jar") and self.class_name is None:
            raise ValueError("a .jar needs class_name, the class to run")
        if self.spark_job.endswith(".py") and self.class_name is not None:
            raise ValueError("class_name is for a .jar")
        return self


_KINDS = ("sql", "notebook", "spark_job")


def _step_kind(value: object) -> str:
    keys = value if isinstance(value, Mapping) else vars(value)
    return next((kind for kind in _KINDS if kind in keys), "sql")


Step = Annotated[
    Annotated[SqlStep, Tag("sql")]
    | Annotated[NotebookStep, Tag("notebook")]
    | Annotated[SparkJobStep, Tag("spark_job")],
    Discriminator(_step_kind),
]
