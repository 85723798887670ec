"""The connection as Airflow's hooks see it: what *Test* in the connection's form does, and `get_conn`."""

from __future__ import annotations

import contextlib

from airflow.sdk.bases.hook import BaseHook

from azflow.connection import DEFAULT_CONNECTION, AzureConnection
from azflow.errors import AzflowError, ConfigurationError, first_line
from azflow.ml_workspace import Workspace


class AzflowHook(BaseHook):
    """An `AzureConnection`, for Python tasks of one's own: ``AzflowHook().get_conn().ml_client()``."""

    conn_name_attr = "conn_id"
    default_conn_name = DEFAULT_CONNECTION
    conn_type = "azflow"
    hook_name = "azflow (Azure Synapse and Azure ML)"

    def __init__(self, conn_id: str = DEFAULT_CONNECTION) -> None:
        super().__init__()
        self.conn_id = conn_id

    def get_conn(self) -> AzureConnection:
        """The connection's endpoints, credential and clients."""
        return AzureConnection.load(self.conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the workspace where its tracking server is: needs the credential, a role, and the right names."""
        from azure.core.exceptions import AzureError

        try:
            connection = self.get_conn()
            with contextlib.closing(Workspace(connection)) as workspace:
                workspace.mlflow_url  # noqa: B018 - asked for, not needed
        except ConfigurationError as problem:
            return False, str(problem)
        except (AzflowError, AzureError) as problem:
            return False, first_line(problem)
        return True, f"The workspace {connection.workspace} answers."
