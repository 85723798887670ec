"""What every Spark process of localazure has, whoever started it: a notebook's kernel, a Livy session, a batch, a job
of Azure ML. One call, after PySpark can be imported and before the user's code runs.

Its surroundings come from the process environment, which `localazure.executors.spark_local.environment` makes: the lake
(`lake`), the address of tokens (`tokens`), the SQL pool (`sql_pool`), and the folder of the process's own files:

    LOCALAZURE_SESSION_FOLDER   mirror and staging lie in `lake` below it
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql.readwriter import DataFrameReader, DataFrameWriter

from localazure_compute import spark_catalogue, spark_lake, spark_tables, synapsesql
from localazure_compute.spark_lake import Connector, Mirror

_mirrors: list[Mirror] = []


def install() -> Mirror:
    """Paths of the lake, Delta, the workspace's tables and `synapsesql` in PySpark, for this process."""
    made = spark_lake.install(spark_lake.mirror_folder(), _connectors)
    synapsesql.install(made)
    spark_catalogue.install(made)
    spark_tables.install(made)
    _mirrors.append(made)
    return made


def mirror() -> Mirror:
    """The process's mirror. Raises RuntimeError before `install`."""
    if not _mirrors:
        raise RuntimeError("spark_runtime.install() comes first")
    return _mirrors[0]


def _connectors(mirror: Mirror) -> Mapping[str, Connector]:
    def read(reader: DataFrameReader, path: str) -> DataFrame:
        from localazure_compute import spark_delta  # a tenth of a second that most processes needn't spend

        return spark_delta.read(reader, path, mirror)

    def write(writer: DataFrameWriter, path: str, mode: str) -> None:
        from localazure_compute import spark_delta

        spark_delta.write(writer, path, mode, mirror)

    return {"delta": Connector(read, write)}
