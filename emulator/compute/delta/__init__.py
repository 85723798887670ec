"""`from delta.tables import DeltaTable`: Delta's Python interface for localazure's Spark, by delta-rs.

https://docs.delta.io/3.2.0/api/python/spark/index.html . What isn't implemented raises NotImplementedError with its
name.
"""

from delta.tables import DeltaTable

__all__ = ["DeltaTable"]
