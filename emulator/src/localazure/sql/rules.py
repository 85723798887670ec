"""What each kind of pool allows: one table, so that a serverless pool is a row and not a second engine.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/overview-features
https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-reference-tsql-statements
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PoolKind:
    """name: dedicated or serverless; refused_functions: T-SQL functions that this pool doesn't have.

    edition: DATABASEPROPERTYEX's; engine_edition: SERVERPROPERTY('EngineEdition').
    """

    name: str
    edition: str
    engine_edition: int
    version: str
    refused_functions: frozenset[str] = field(default_factory=frozenset)
    offset_fetch: bool = False
    openrowset: bool = False
    tables: bool = True
    labels: bool = True
    cross_database: bool = False
    ctas_needs_distribution: bool = True
    recursive_tables: bool = False


DEDICATED = PoolKind(
    name="dedicated",
    edition="DataWarehouse",
    engine_edition=6,
    version="Microsoft Azure SQL Data Warehouse - 10.0.15554.0 (localazure)",
    # functions that the vendor lists for SQL Server and not for dedicated pools
    # https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/overview-features#functions
    refused_functions=frozenset(
        {
            "CHOOSE",
            "TRANSLATE",
            "STRING_ESCAPE",
            "PARSE",
            "TRY_PARSE",
            "SCOPE_IDENTITY",
            "IDENT_CURRENT",
            "GENERATE_SERIES",
            "ERROR_LINE",
            "NEWSEQUENTIALID",
        }
    ),
)

SERVERLESS = PoolKind(
    name="serverless",
    edition="",
    engine_edition=11,
    version="Microsoft Azure SQL Data Warehouse - 10.0.15554.0 serverless (localazure)",
    refused_functions=frozenset({"SCOPE_IDENTITY", "IDENT_CURRENT"}),
    offset_fetch=True,
    openrowset=True,
    tables=False,
    labels=False,
    cross_database=True,
    ctas_needs_distribution=False,
)
