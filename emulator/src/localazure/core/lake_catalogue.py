"""The workspace's catalogue of Spark, as it is kept: `localazure.synapse.lake_databases` writes it for Spark's
processes, `localazure.sql.lake_databases` shows it in the serverless SQL pool, each in a process of its own.

A database is one document with all its tables, so that each change is one transaction, whoever else is at it:

    {"name", "description", "location", "properties", "tables": {name: table}}; "dropped" while it goes

A table is what Spark knows of it: {"name", "type": "MANAGED"|"EXTERNAL"|"VIEW", "provider", "location", "options",
"schema" (Spark's JSON), "partitions", "buckets", "owner", "created" (ms), "properties", "comment", "text" and
"original" (a view's)}.
"""

KIND = "lakeDatabase"
