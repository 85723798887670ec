"""The connection type ``azflow`` in Airflow's form; Airflow finds it through ``plugins/azflow-*.dist-info``.

https://airflow.apache.org/docs/apache-airflow-providers/howto/create-custom-providers.html
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": ["string", "null"]}
#: Extra -> (label, help, JSON schema).
FIELDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tenant_id": ("Tenant id", "Microsoft Entra tenant of the client id", _TEXT),
    "subscription_id": ("Subscription id", "of the Azure ML workspace", _TEXT),
    "resource_group": ("Resource group", "of the Azure ML workspace", _TEXT),
    "workspace": ("Azure ML workspace", "its name", _TEXT),
    "storage_account_url": ("Storage account URL", "of the lake, e.g. https://account.blob.core.windows.net", _TEXT),
    "container": ("Container", "of the lake; empty: lake", _TEXT),
    "synapse_endpoint": ("Synapse endpoint", "e.g. https://workspace.dev.azuresynapse.net", _TEXT),
    "synapse_workspace": ("Synapse workspace", "its name; empty: from the hosts of its endpoints", _TEXT),
    "spark_pool": ("Spark pool", "on which notebooks run", _TEXT),
    "sql_server": ("SQL server", "e.g. workspace.sql.azuresynapse.net", _TEXT),
    "sql_database": ("SQL database", "the dedicated pool", _TEXT),
    "sql_serverless_server": ("Serverless SQL server", "empty: the SQL server's name with -ondemand", _TEXT),
    "sql_serverless_database": ("Serverless SQL database", "empty: master", _TEXT),
    "sql_authentication": (
        "SQL authentication",
        "entra: with a token of the client id; password: with the two fields below",
        {"type": ["string", "null"], "enum": ["entra", "password"]},
    ),
    "sql_login": ("SQL login", "for SQL authentication by password", _TEXT),
    "sql_password": ("SQL password", "for SQL authentication by password", {**_TEXT, "format": "password"}),
    "lake_url": ("Lake URL", "for COPY INTO and CETAS; empty: from the storage account", _TEXT),
    "lake_abfss_url": ("Lake abfss URL", "for Spark; empty: from the storage account", _TEXT),
    "verify": ("CA bundle", "file of certificates to trust; empty: the system's", _TEXT),
    "cloud": (
        "Cloud",
        "endpoints of a sovereign or private cloud, see docs/guide.md; empty: public Azure",
        {"type": ["object", "null"]},
    ),
}


def get_provider_info() -> dict[str, Any]:
    """What Airflow asks of a provider: its connection type, with the fields of its form."""
    return {
        "package-name": "azflow",
        "name": "azflow",
        "description": "Azure Synapse and Azure Machine Learning",
        "connection-types": [
            {
                "connection-type": "azflow",
                "hook-class-name": "azflow.hook.AzflowHook",
                "hook-name": "azflow (Azure Synapse and Azure ML)",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "schema"],
                    "relabeling": {"login": "Client id", "password": "Client secret"},
                    "placeholders": {
                        "login": "of an application in Entra; empty: the machine's own identity",
                        "password": "empty: the machine's own identity",
                    },
                },
                "conn-fields": {
                    name: {"label": label, "description": text, "schema": schema}
                    for name, (label, text, schema) in FIELDS.items()
                },
            }
        ],
    }
