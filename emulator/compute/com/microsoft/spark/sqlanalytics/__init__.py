"""`import com.microsoft.spark.sqlanalytics`, which on Azure brings `synapsesql` to Spark's readers and writers.

Here every Spark process has it from the start (`localazure_compute.spark_runtime`).
https://learn.microsoft.com/azure/synapse-analytics/spark/synapse-spark-sql-pool-import-export
"""
