"""Names of the options of `synapsesql`; their values are Spark's option keys.

https://learn.microsoft.com/azure/synapse-analytics/spark/synapse-spark-sql-pool-import-export
"""


class Constants:
    """What the connector's documentation names."""

    SERVER = "sqlanalytics.server"
    DATABASE = "sqlanalytics.database"
    USER = "sqlanalytics.user"
    PASSWORD = "sqlanalytics.password"
    QUERY = "sqlanalytics.query"
    TEMP_FOLDER = "sqlanalytics.tempFolder"
    DATA_SOURCE = "sqlanalytics.dataSource"
    STAGING_STORAGE_ACCOUNT_KEY = "sqlanalytics.stagingStorageAccountKey"
    INTERNAL = "internal"
    EXTERNAL = "external"
