"""A Synapse SQL pool on DuckDB: T-SQL in, typed Arrow results out. Entry point: ``localazure.sql.pool.Pool``."""
