"""What public Synapse notebooks do, on localazure's Spark: ten of them, their constructs in our words.

Each entry names its source, a notebook of Azure-Samples/Synapse on GitHub or a page of Microsoft's documentation. All
of them are cells of one notebook, submitted once with azure-synapse-artifacts; each is a test by itself, which looks at
what its cells printed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from azure.synapse.artifacts import ArtifactsClient
from synapse_notebooks import code, ended, notebook, publish, submit

pytestmark = pytest.mark.evidence("sdk")

SAMPLES = "https://github.com/Azure-Samples/Synapse/blob/main/Notebooks/PySpark"
LEARN = "https://learn.microsoft.com/azure/synapse-analytics"


@dataclass(frozen=True)
class Construct:
    """Cells, and what the last of them prints."""

    source: str
    cells: tuple[str, ...]
    printed: str


CONSTRUCTS = {
    "a view of one cell, SQL in the next": Construct(
        f"{SAMPLES}/00 Introduction to Azure Synapse Studio Notebooks.ipynb",
        (
            "people = spark.createDataFrame([('Ann', 31), ('Bo', 19)], ['name', 'age'])\n"
            "people.createOrReplaceTempView('people')\ndisplay(people.filter(people.age > 20))",
            "%%sql\nSELECT name, age FROM people ORDER BY age",
            "%%markdown\n## people",
            "%%time\nprint(people.count())",
        ),
        "2",
    ),
    "Parquet, JSON, CSV and text by abfss paths": Construct(
        f"{SAMPLES}/01 Read and write data from Azure Data Lake Storage Gen2.ipynb",
        (
            "adls = 'abfss://%s@%s.dfs.core.windows.net/%s' % (container, account, folder + '/01/')\n"
            "for kind in ('parquet', 'json', 'csv'):\n"
            "    getattr(people.write, kind)(adls + kind, mode='overwrite')\n"
            "people.rdd.map(lambda row: ','.join(map(str, row))).saveAsTextFile(adls + 'text')\n"
            "print(spark.read.parquet(adls + 'parquet').count(), spark.read.json(adls + 'json').count(),\n"
            "      spark.read.csv(adls + 'csv').count(), sc.textFile(adls + 'text').count())",
        ),
        "2 2 2 2",
    ),
    "blobs by wasbs paths": Construct(
        f"{SAMPLES}/02 Read and write data from Azure Blob Storage WASB.ipynb",
        (
            "wasbs = 'wasbs://%s@%s.blob.core.windows.net/%s' % (container, account, folder + '/02')\n"
            "spark.conf.set('fs.azure.sas.%s.%s.blob.core.windows.net' % (container, account), '')\n"
            "people.write.option('header', True).csv(wasbs)\n"
            "print(spark.read.option('header', True).option('inferSchema', True).csv(wasbs).schema.simpleString())",
        ),
        "struct<name:string,age:int>",
    ),
    "a table of the SQL pool, there and back": Construct(
        f"{LEARN}/spark/synapse-spark-sql-pool-import-export",
        (
            "import com.microsoft.spark.sqlanalytics\n"
            "from com.microsoft.spark.sqlanalytics.Constants import Constants\n"
            "from pyspark.sql.functions import col\n"
            "server = f'{mssparkutils.env.getWorkspaceName()}.sql.azuresynapse.net'\n"
            "people.write.option(Constants.SERVER, server).mode('overwrite')\\\n"
            "    .synapsesql(f'{pool}.dbo.public_people', Constants.INTERNAL)\n"
            "found = (spark.read.option(Constants.SERVER, server).synapsesql(f'{pool}.dbo.public_people')\n"
            "         .select('name').filter(col('name').contains('n')).limit(10))\n"
            "counted = (spark.read.option(Constants.DATABASE, pool)\n"
            "           .option(Constants.QUERY, 'select count(*) as cnt from dbo.public_people').synapsesql())\n"
            "print([row.name for row in found.collect()], counted.first().cnt)",
        ),
        "['Ann'] 2",
    ),
    "Delta: overwrite, append, travel in time": Construct(
        f"{SAMPLES}/04 Using Delta Lake in Azure Synapse.ipynb",
        (
            "delta_path = f'/{folder}/04'\n"
            "spark.range(5).write.format('delta').save(delta_path)\n"
            "spark.range(5, 10).write.format('delta').mode('overwrite').save(delta_path)\n"
            "spark.range(10, 12).write.format('delta').mode('append').save(delta_path)\n"
            "first = spark.read.format('delta').option('versionAsOf', 0).load(delta_path)\n"
            "print(first.count(), spark.read.format('delta').load(delta_path).count(),\n"
            "      any('commitInfo' in line.value for line in spark.read.text(delta_path + '/_delta_log/').collect()))",
        ),
        "5 7 True",
    ),
    "charts and HTML": Construct(
        f"{SAMPLES}/06 Charting in Synapse Notebook.ipynb",
        (
            "import matplotlib.pyplot as plt\n"
            "frame = people.toPandas()\nplt.bar(frame['name'], frame['age'])\nplt.show()\n"
            "displayHTML('<b>ages</b>')\ndisplay(people, summary=True)\nprint(len(frame))",
        ),
        "2",
    ),
    "a model by Spark's own ML": Construct(
        f"{SAMPLES}/07 Data Exploration and ML Modeling - NYC taxi predict using Spark MLlib.ipynb",
        (
            "from pyspark.ml import Pipeline\n"
            "from pyspark.ml.classification import LogisticRegression\n"
            "from pyspark.ml.evaluation import BinaryClassificationEvaluator\n"
            "from pyspark.ml.feature import OneHotEncoder, StringIndexer, VectorAssembler\n"
            "trips = spark.range(200).selectExpr('double(id % 10) AS fare', 'string(id % 3) AS zone',\n"
            "                                    'double(id % 10 > 4) AS label').cache()\n"
            "train, test = trips.randomSplit([0.7, 0.3], seed=1234)\n"
            "stages = [StringIndexer(inputCol='zone', outputCol='zone_index'),\n"
            "          OneHotEncoder(inputCol='zone_index', outputCol='zone_vector'),\n"
            "          VectorAssembler(inputCols=['fare', 'zone_vector'], outputCol='features'),\n"
            "          LogisticRegression(maxIter=5)]\n"
            "scored = Pipeline(stages=stages).fit(train).transform(test)\n"
            "print(BinaryClassificationEvaluator().evaluate(scored))",
        ),
        "1.0",
    ),
    "a customer is forgotten": Construct(
        f"{SAMPLES}/Updates and GDPR using Delta Lake - PySpark.ipynb",
        (
            "from delta.tables import *\nfrom pyspark.sql.functions import *\n"
            "path = f'/{folder}/gdpr'\n"
            "spark.sql(\"SELECT 1 id, 'Ann' name, 100 price UNION ALL SELECT 2, 'Bo', 50\").repartition(1)\\\n"
            "    .write.format('delta').save(path)\n"
            "table = DeltaTable.forPath(spark, path)\n"
            "table.update(condition=expr(\"name == 'Ann'\"), set={'price': expr('price - price * 0.1')})\n"
            "table.delete(condition=expr(\"name == 'Bo'\"))",
            "operations = [row.operation for row in table.history().orderBy('version').collect()]\n"
            "print([tuple(row) for row in table.toDF().collect()], operations)",
        ),
        "[(1, 'Ann', 90)] ['WRITE', 'UPDATE', 'DELETE']",
    ),
    "an upsert": Construct(
        f"{SAMPLES}/Hitchikers Guide to Delta Lake - Python.ipynb",
        (
            "news = spark.createDataFrame([(1, 'Anna', 99), (3, 'Cy', 7)], 'id int, name string, price int')\n"
            "(table.alias('old').merge(news.alias('new'), 'old.id = new.id')\n"
            "    .whenMatchedUpdate(set={'name': col('new.name')}).whenNotMatchedInsertAll().execute())\n"
            "print(sorted(tuple(row) for row in table.toDF().collect()))",
        ),
        "[(1, 'Anna', 90), (3, 'Cy', 7)]",
    ),
    "parameters, and notebooks that call notebooks": Construct(
        f"{SAMPLES}/exampleForParameter.ipynb",
        (
            '%run /library/public-library {"factor": 3}',
            "exit_value = mssparkutils.notebook.run('public-child', 90, {'n': 4})\n"
            "many = mssparkutils.notebook.runMultiple(['public-child', 'public-library'])\n"
            "print(times(2), exit_value, many['public-child']['exitVal'])",
        ),
        "6 8 2",
    ),
    "a token, and files of the lake": Construct(
        f"{LEARN}/spark/microsoft-spark-utilities",
        (
            "token = mssparkutils.credentials.getToken('Storage')\n"
            "mssparkutils.fs.mkdirs(f'/{folder}/files')\n"
            "mssparkutils.fs.put(f'/{folder}/files/a.txt', 'hello', True)\n"
            "mssparkutils.fs.append(f'/{folder}/files/a.txt', ' again')\n"
            "mssparkutils.fs.cp(f'/{folder}/files/a.txt', f'/{folder}/files/b.txt')\n"
            "mssparkutils.fs.mount(f'abfss://{container}@{account}.dfs.core.windows.net/{folder}', '/m')\n"
            "mounted = mssparkutils.fs.head(f'synfs:/{mssparkutils.env.getJobId()}/m/files/b.txt')\n"
            "print(token.count('.'), [f.name for f in mssparkutils.fs.ls(f'/{folder}/files')], mounted)",
        ),
        "2 ['a.txt', 'b.txt'] hello again",
    ),
    "partitions, and a wildcard": Construct(
        "https://github.com/Azure-Samples/Synapse/blob/main/DataEngineering/Notebook/GreenTripData/"
        "DataEngineeringStarterKit.ipynb",
        (
            "trips = spark.range(12).selectExpr('id', 'int(2019 + id % 2) AS year', 'int(id % 3) AS month')\n"
            "trips.write.mode('overwrite').partitionBy('year', 'month').parquet(f'/{folder}/trips')\n"
            "some = spark.read.option('basePath', f'/{folder}/trips').parquet(f'/{folder}/trips/year=2019/month=*')\n"
            "january = spark.read.parquet(f'/{folder}/trips').where('month = 1')\n"
            "print(some.count(), sorted(some.columns), january.count())",
        ),
        "6 ['id', 'month', 'year'] 4",
    ),
}


@pytest.fixture(scope="module")
def client(localazure: Any) -> Iterator[ArtifactsClient]:
    with ArtifactsClient(localazure.credential(), localazure["synapse_endpoint"]) as made:
        yield made


@pytest.fixture(scope="module")
def executed(client: ArtifactsClient, localazure: Any) -> Any:
    """The run, and its cells as they were executed."""
    publish(
        client, "public-library", notebook(code("factor = 1", "parameters"), code("def times(n): return factor * n"))
    )
    publish(
        client, "public-child", notebook(code("n = 1", "parameters"), code("mssparkutils.notebook.exit(str(2 * n))"))
    )
    values = {
        "container": localazure["container"],
        "account": localazure["storage_account"],
        "pool": localazure["sql_database"],
        "folder": f"test/{uuid.uuid4().hex}",
    }
    cells = [code("container = account = pool = folder = ''", "parameters")]
    cells += [code(source) for construct in CONSTRUCTS.values() for source in construct.cells]
    publish(client, "public-constructs", notebook(*cells))
    parameters = {name: {"type": "string", "value": value} for name, value in values.items()}
    run = submit(client, localazure["spark_pool"], "public-constructs", parameters=parameters)
    result = ended(client, run)
    snapshot = client.run_notebook.get_snapshot(run).result.snapshot
    return result, snapshot.notebook_content.properties.cells[2:]  # after the parameters and what overwrote them


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_public_notebooks_constructs(executed: Any, name: str) -> None:
    result, cells = executed
    names = list(CONSTRUCTS)
    start = sum(len(CONSTRUCTS[each].cells) for each in names[: names.index(name)])
    own = cells[start : start + len(CONSTRUCTS[name].cells)]
    failed = [item.as_dict() for cell in own for item in cell.outputs if item.output_type == "error"]
    assert not failed, (failed, CONSTRUCTS[name].source)
    assert own[-1].outputs, f"not reached: {result.error and result.error.evalue}"
    printed = "".join("".join(item.text) for item in own[-1].outputs if item.output_type == "stream").splitlines()
    assert CONSTRUCTS[name].printed in printed, CONSTRUCTS[name].source
