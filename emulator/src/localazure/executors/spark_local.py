"""What every Spark of localazure is started with, in a notebook's session as in a job: size, configuration, the lake.

A Synapse pool's smallest node has 4 cores and 28 GB, Azure ML's serverless Spark begins at 4 cores and 32 GB; a laptop
hasn't. At most 2 cores and 2 GB for the driver, which is the whole of a local Spark.
https://spark.apache.org/docs/3.5.9/configuration.html
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import re
from pathlib import Path
from urllib.parse import urlencode

from localazure.core.auth import Tokens
from localazure.settings import Settings

CORES = 2
MEMORY_MB = 2048
# Spark doesn't start below 471859200 bytes of heap.
_LEAST_MB = 512
MEMORY = re.compile(r"^(\d+)\s*([kmgt])b?$", re.IGNORECASE)
_MB = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
_SAS_VERSION = "2021-12-02"
_SAS_DAYS = 3
#: Where a Spark process gets its tokens (answered by synapse.identities), and what its secret's subject begins with.
TOKEN_PATH = "/spark/token"
#: Where it finds the workspace's databases (answered by synapse.lake_databases).
CATALOGUE_PATH = "/spark/catalogue"
SUBJECT = "spark:"
_SECRET_AUDIENCE = "https://dev.azuresynapse.net"

#: Configuration about the size of a cluster: a local Spark is bounded anyway.
SIZES = re.compile(
    r"^spark\.(executor\.|driver\.(memory|cores|memoryOverhead)|dynamicAllocation\.|yarn\.|synapse\.|autotune\.|microsoft\.)"
)
#: Configuration that would need another driver, a cluster, or packages from the network.
REFUSED = re.compile(r"^spark\.(jars|plugins|submit|master|kubernetes|files|archives)\b")
#: Every Spark's. The options of the JVM halve a short session's start: compiled by C1 only, one collector thread.
BASE: dict[str, str] = {
    "spark.master": f"local[{CORES}]",
    "spark.driver.memory": f"{MEMORY_MB}m",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.session.timeZone": "UTC",
    # Databases and tables are the workspace's (localazure_compute.spark_catalogue), not of a metastore of the process.
    "spark.sql.catalogImplementation": "in-memory",
    "spark.sql.legacy.createHiveTableByDefault": "false",
    "spark.sql.hive.manageFilesourcePartitions": "false",
    # Another session may have written to a table since this one listed its files.
    "spark.sql.filesourceTableRelationCacheSize": "0",
    # The lake's files are equally far from everywhere: not asked for each one.
    "spark.sql.sources.ignoreDataLocality": "true",
    "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
}


def bounded_megabytes(text: str) -> int | None:
    """A size such as "28g" in megabytes, between what Spark needs and what there is; None if it is no size."""
    match = MEMORY.match(text)
    if match is None:
        return None
    return min(MEMORY_MB, max(_LEAST_MB, int(int(match[1]) * _MB[match[2].lower()])))


def environment(settings: Settings, folder: Path) -> dict[str, str]:
    """The environment variables of a Spark process: what `localazure_compute.spark_runtime` reads.

    Its files are below `folder`. It gets no more of the storage account than a SAS; for everything else it asks for
    tokens, with a secret of its own.
    """
    temporary = str(folder / "tmp")
    secret = Tokens(settings).issue(SUBJECT + folder.name, _SECRET_AUDIENCE, lifetime_seconds=_SAS_DAYS * 24 * 3600)
    return {
        "TMPDIR": temporary,
        "SPARK_LOCAL_DIRS": temporary,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "LOCALAZURE_LAKE_ENDPOINT": settings.blob_url,
        "LOCALAZURE_LAKE_ACCOUNT": settings.storage_account,
        "LOCALAZURE_LAKE_CONTAINER": settings.container,
        "LOCALAZURE_LAKE_SAS": account_sas(settings),
        "LOCALAZURE_TOKEN_ENDPOINT": settings.api_url + TOKEN_PATH,
        "LOCALAZURE_TOKEN_SECRET": secret,
        "LOCALAZURE_CATALOGUE_ENDPOINT": settings.api_url + CATALOGUE_PATH,
        "LOCALAZURE_KEY_VAULT": settings.key_vault,
        "LOCALAZURE_KEY_VAULT_URL": settings.key_vault_url,
        "LOCALAZURE_SQL_SERVER": settings.sql_server,
        "LOCALAZURE_SQL_DATABASE": settings.sql_database,
        "LOCALAZURE_WORKSPACE": settings.workspace,
        "LOCALAZURE_SPARK_POOL": settings.spark_pool,
    }


def account_sas(settings: Settings, days: int = _SAS_DAYS) -> str:
    """A SAS for all blobs of the account (read, write, delete, list, add, create), as a query string without "?".

    https://learn.microsoft.com/rest/api/storageservices/create-account-sas#version-2020-12-06-and-later
    """
    expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    values = {
        "sp": "rwdlac",
        "ss": "b",
        "srt": "sco",
        "st": "",
        "se": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sip": "",
        "spr": "https",
        "sv": _SAS_VERSION,
        "ses": "",
    }
    signed = "\n".join([settings.storage_account, *values.values()]) + "\n"
    key = base64.b64decode(settings.storage_account_key)
    signature = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    return urlencode({name: value for name, value in values.items() if value} | {"sig": signature})
