"""One Airflow connection -> endpoints, credential, TLS. The only reader of a connection's extras.

An Airflow connection of type ``azflow`` holds the client id (login), the client secret (password) and, in its extras,
where things are (`Extra`). Without a client secret the machine's own identity is used
(``azure.identity.DefaultAzureCredential``).

``cloud`` describes a cloud that isn't public Azure: a sovereign or a private one. Nothing here asks what kind of
machine answers.

The SDKs are imported inside functions: ``azure.ai.ml`` costs seconds, and DAG files import this module.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote, urlsplit

from azflow.cloud import SQL_SCOPE, SYNAPSE_SCOPE, Cloud
from azflow.credentials import AsyncRestClient, NamedAsyncCredential, NamedCredential, async_transport
from azflow.errors import AccessDenied, ConfigurationError, first_line
from azflow.tsql_rules import Pool

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core import PipelineClient
    from azure.core.credentials import TokenCredential
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.storage.blob import BlobServiceClient
    from azure.synapse.artifacts import ArtifactsClient
    from mssql_python import Connection as SqlConnection

DEFAULT_CONNECTION = "azure_default"

PUBLIC_RESOURCE_MANAGER = "https://management.azure.com"
PUBLIC_ML = "https://ml.azure.com"
STORAGE_SCOPE = "https://storage.azure.com/.default"

#: Secrets of a stand-in begin with this, so that they can be refused by value where they don't belong.
LOCAL_SECRET_PREFIX = "local-only~"

#: ODBC attribute: an Entra access token for the log-in (SQL_COPT_SS_ACCESS_TOKEN).
#: https://learn.microsoft.com/sql/connect/odbc/using-azure-active-directory#authenticating-with-an-access-token
_SQL_COPT_SS_ACCESS_TOKEN = 1256

_EXTRAS = frozenset(
    {
        "tenant_id",
        "subscription_id",
        "resource_group",
        "workspace",
        "synapse_endpoint",
        "synapse_workspace",
        "spark_pool",
        "sql_server",
        "sql_database",
        "sql_serverless_server",
        "sql_serverless_database",
        "sql_authentication",
        "sql_login",
        "sql_password",
        "storage_account_url",
        "container",
        "lake_url",
        "lake_abfss_url",
        "cloud",
        "verify",
    }
)


class _AirflowConnection(Protocol):
    """What is read of ``airflow.sdk.Connection``."""

    conn_id: str
    conn_type: str | None
    login: str | None
    password: str | None
    extra: str | None


@dataclass(frozen=True)
class AzureConnection:
    """Everything azflow knows about one Azure environment. Its repr shows no secret.

    Build it with `load` (worker) or `aload` (triggerer).
    """

    id: str
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    subscription_id: str = ""
    resource_group: str = ""
    workspace: str = ""
    synapse_endpoint: str = ""
    synapse_workspace_override: str = ""
    spark_pool: str = ""
    sql_server: str = ""
    sql_database: str = ""
    sql_serverless_server: str = ""
    sql_serverless_database: str = "master"
    sql_authentication: Literal["entra", "password"] = "entra"
    sql_login: str = ""
    sql_password: str = field(default="", repr=False)
    storage_account_url: str = ""
    container: str = "lake"
    lake_url_override: str = ""
    lake_abfss_url_override: str = ""
    cloud: Cloud | None = None
    verify: str = ""

    # -- reading ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, conn_id: str = DEFAULT_CONNECTION) -> AzureConnection:
        """The Airflow connection `conn_id`, for code in a worker.

        :raises ConfigurationError: it doesn't exist or is malformed; the message names it and the key.
        """
        from airflow.sdk import Connection
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            found = Connection.get(conn_id)
        except AirflowNotFoundException:
            raise _no_such_connection(conn_id) from None
        return cls.parse(found)

    @classmethod
    async def aload(cls, conn_id: str = DEFAULT_CONNECTION) -> AzureConnection:
        """As `load`, for the triggerer's event loop."""
        from airflow.sdk import Connection
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            found = await Connection.async_get(conn_id)
        except AirflowNotFoundException:
            raise _no_such_connection(conn_id) from None
        return cls.parse(found)

    @classmethod
    def parse(cls, connection: _AirflowConnection) -> AzureConnection:
        """An `AzureConnection` from an Airflow connection; pure but for the CA bundle (`verify`), which becomes the
        process's.

        :raises ConfigurationError: malformed extras, unknown keys, a stand-in's secret without a ``cloud``.
        """
        where = f"Connection {connection.conn_id!r}"
        if connection.conn_type not in (None, "", "azflow"):
            raise ConfigurationError(f"{where} has type {connection.conn_type!r}; azflow needs type 'azflow'.")
        extra = _extras(connection.extra, where)
        if unknown := sorted(set(extra) - _EXTRAS):
            raise ConfigurationError(f"{where}: unknown extra(s) {', '.join(unknown)}.")
        # Airflow's form leaves empty texts behind.
        extra = {key: value for key, value in extra.items() if value not in (None, "")}
        cloud = Cloud.parse(extra["cloud"], where) if extra.get("cloud") else None
        texts = {key: _text(value, where, key) for key, value in extra.items() if key != "cloud"}
        secret = connection.password or ""
        if cloud is None:
            for key, value in (("password", secret), ("sql_password", texts.get("sql_password", ""))):
                if value.startswith(LOCAL_SECRET_PREFIX):
                    raise ConfigurationError(
                        f"{where}: its {key} belongs to a local stand-in, but the extra 'cloud' is null, which means "
                        f"public Azure. Set 'cloud' to the stand-in's endpoints, or use a real secret."
                    )
        authentication = texts.pop("sql_authentication", "entra")
        if authentication not in ("entra", "password"):
            raise ConfigurationError(f"{where}: sql_authentication is {authentication!r}; use 'entra' or 'password'.")
        if authentication == "password" and not (texts.get("sql_login") and texts.get("sql_password")):
            raise ConfigurationError(f"{where}: sql_authentication 'password' needs sql_login and sql_password.")
        if secret and not (connection.login and texts.get("tenant_id")):
            raise ConfigurationError(f"{where}: a client secret needs a client id (login) and the extra tenant_id.")
        if (verify := texts.get("verify", "")) and not os.path.isfile(verify):
            raise ConfigurationError(f"{where}: verify names a CA bundle that doesn't exist: {verify}")
        loaded = cls(
            id=connection.conn_id,
            client_id=connection.login or "",
            client_secret=secret,
            sql_authentication="password" if authentication == "password" else "entra",
            cloud=cloud,
            synapse_workspace_override=texts.pop("synapse_workspace", ""),
            lake_url_override=texts.pop("lake_url", "").rstrip("/"),
            lake_abfss_url_override=texts.pop("lake_abfss_url", "").rstrip("/"),
            **texts,
        )
        loaded._trust()
        _calm_loggers()
        return loaded

    def _trust(self) -> None:
        """Make the CA bundle the process's own.

        The SDKs offer no common argument for it: requests, aiohttp and the SQL driver read it from the environment.
        """
        if self.verify:
            os.environ["REQUESTS_CA_BUNDLE"] = self.verify
            os.environ["SSL_CERT_FILE"] = self.verify

    def require(self, *names: str) -> None:
        """Raise a `ConfigurationError` that lists which of these extras are empty."""
        if missing := [name for name in names if not getattr(self, name)]:
            raise ConfigurationError(f"Connection {self.id!r} lacks the extra(s) {', '.join(missing)}.")

    # -- credentials -----------------------------------------------------------------------------------------------

    def credential(self) -> TokenCredential:
        """A credential for any Azure SDK. What the identity service refuses is raised as `AccessDenied`, naming this
        connection."""
        return self._credential

    @cached_property
    def _credential(self) -> TokenCredential:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential

        if self.client_secret:
            return NamedCredential(
                ClientSecretCredential(self.tenant_id, self.client_id, self.client_secret, **self._identity_arguments),
                self.id,
            )
        return NamedCredential(DefaultAzureCredential(**self._identity_arguments), self.id)

    def async_credential(self) -> AsyncTokenCredential:
        """As `credential`, for asyncio. The caller closes it."""
        from azure.identity.aio import ClientSecretCredential, DefaultAzureCredential

        if self.client_secret:
            return NamedAsyncCredential(
                ClientSecretCredential(self.tenant_id, self.client_id, self.client_secret, **self._identity_arguments),
                self.id,
            )
        return NamedAsyncCredential(DefaultAzureCredential(**self._identity_arguments), self.id)

    @property
    def _identity_arguments(self) -> dict[str, Any]:
        # Instance discovery asks Microsoft's public log-in host whether it knows the authority; a private cloud's it
        # can't know, and the call would leave the private network.
        own = {"authority": self.cloud.authority, "disable_instance_discovery": True} if self.cloud else {}
        return {**own, **self.transport_arguments}

    @property
    def transport_arguments(self) -> dict[str, Any]:
        """Keyword arguments for azure-core's pipelines.

        aiohttp makes its TLS context when it is imported, maybe long before this connection named its CA bundle.
        """
        return {"connection_verify": self.verify} if self.verify else {}

    def rest_client(self, scope: str = "") -> PipelineClient[Any, Any]:
        """azure-core's client for Resource Manager and the Azure ML services behind it; the caller closes it.

        Throttled and failed requests are tried again; which status is an error is the caller's business.

        :param scope: of the tokens; empty: Resource Manager's.
        """
        from azure.core import PipelineClient
        from azure.core.pipeline import policies

        steps: list[Any] = [
            policies.RequestIdPolicy(),
            policies.RetryPolicy(retry_total=5, retry_backoff_factor=0.5),
            policies.BearerTokenCredentialPolicy(self.credential(), scope or self.arm_scope),
        ]
        return PipelineClient(self.resource_manager, policies=steps, **self.transport_arguments)

    def async_rest_client(self, base_url: str, scope: str, *, retries: bool = False) -> AsyncRestClient:
        """As `rest_client`, for the triggerer's event loop and any service; the caller closes it.

        :param scope: of the tokens, ends in ``/.default``.
        :param retries: the poller has its own pauses and honours ``Retry-After`` for all waiting tasks, and wants none.
        """
        from azure.core import AsyncPipelineClient
        from azure.core.pipeline import policies

        credential = self.async_credential()
        steps: list[Any] = [policies.RequestIdPolicy(), policies.AsyncBearerTokenCredentialPolicy(credential, scope)]
        if retries:
            steps.insert(1, policies.AsyncRetryPolicy())
        transport = {"transport": async_transport(self.verify)} if self.verify else {}
        return AsyncRestClient(AsyncPipelineClient(base_url, policies=steps, **transport), credential)

    def token(self, scope: str) -> str:
        """A bearer token for `scope` (ends in ``/.default``)."""
        return self.credential().get_token(scope).token

    @property
    def arm_scope(self) -> str:
        """Token scope of Azure Resource Manager and so of Azure ML."""
        return f"{self.resource_manager}/.default"

    @property
    def ml_scope(self) -> str:
        """Token scope of Azure ML's own data plane: batch endpoints."""
        return f"{self.cloud.aml_resource_id.rstrip('/') if self.cloud else PUBLIC_ML}/.default"

    @property
    def synapse_scope(self) -> str:
        """Token scope of the Synapse development endpoint."""
        return self.cloud.synapse_scope if self.cloud else SYNAPSE_SCOPE

    @property
    def resource_manager(self) -> str:
        """ARM's base URL without a slash at its end."""
        return self.cloud.resource_manager.rstrip("/") if self.cloud else PUBLIC_RESOURCE_MANAGER

    # -- Azure ML --------------------------------------------------------------------------------------------------

    @property
    def ml_workspace_id(self) -> str:
        """ARM id of the Azure ML workspace, ``/subscriptions/...``."""
        self.require("subscription_id", "resource_group", "workspace")
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def ml_workspace_url(self) -> str:
        """ARM URL of the Azure ML workspace, for calls the SDK has no async version of."""
        return self.resource_manager + self.ml_workspace_id

    def ml_client(self) -> MLClient:
        """Azure ML's SDK for the workspace. Importing it costs seconds: call it in tasks only.

        The SDK keeps its cloud in the process's environment: one cloud a process.
        """
        return self._ml_client

    @cached_property
    def _ml_client(self) -> MLClient:
        self.require("subscription_id", "resource_group", "workspace")
        return self._new_ml_client(workspace_name=self.workspace)

    def registry_client(self, registry: str) -> MLClient:
        """As `ml_client`, for a registry of the same cloud."""
        return self._new_ml_client(registry_name=registry)

    def _new_ml_client(self, **scope: str) -> MLClient:
        from azure.ai.ml import MLClient

        arguments: dict[str, Any] = {"show_progress": False, "enable_telemetry": False, **scope}
        if self.cloud:
            arguments |= {"cloud": self.cloud.name, "cloud_metadata": self._cloud_metadata(self.cloud)}
        return MLClient(self.credential(), self.subscription_id, self.resource_group, **arguments)

    @staticmethod
    def _cloud_metadata(cloud: Cloud) -> dict[str, str]:
        manager = cloud.resource_manager.rstrip("/")
        return {
            "azure_portal": cloud.portal,
            "resource_manager": manager + "/",
            "active_directory": cloud.authority,
            "aml_resource_id": cloud.aml_resource_id,
            "storage_endpoint": cloud.storage_endpoint,
            "registry_discovery_endpoint": cloud.registry_discovery_endpoint or manager + "/",
        }

    # -- Synapse ---------------------------------------------------------------------------------------------------

    def synapse_artifacts(self) -> ArtifactsClient:
        """The Synapse workspace's development endpoint (notebooks, their runs)."""
        from azure.synapse.artifacts import ArtifactsClient

        self.require("synapse_endpoint")
        arguments: dict[str, Any] = {}
        if self.synapse_scope != SYNAPSE_SCOPE:
            arguments["credential_scopes"] = [self.synapse_scope]
        return ArtifactsClient(self.credential(), self.synapse_endpoint, **arguments)

    @property
    def synapse_workspace(self) -> str:
        """The Synapse workspace's name: the extra, else the first label of one of its hosts."""
        if self.synapse_workspace_override:
            return self.synapse_workspace_override
        for host, service in (((urlsplit(self.synapse_endpoint).hostname or ""), "dev"), (self.sql_server, "sql")):
            workspace, _, rest = host.partition(".")
            if rest.startswith(f"{service}."):
                return workspace
        raise ConfigurationError(
            f"Connection {self.id!r}: set the extra synapse_workspace; synapse_endpoint and sql_server don't name it."
        )

    @property
    def sql_pool_id(self) -> str:
        """ARM id of the dedicated SQL pool, in the resource group of the Azure ML workspace."""
        self.require("subscription_id", "resource_group", "sql_database")
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.Synapse/workspaces/{self.synapse_workspace}/sqlPools/{self.sql_database}"
        )

    def sql_host(self, pool: Pool = "dedicated") -> str:
        """Where a kind of pool answers: ``host`` or ``host,port``.

        A workspace's serverless pool has the dedicated one's host with ``-ondemand`` behind the workspace's name.
        https://learn.microsoft.com/azure/synapse-analytics/sql/connect-overview

        :raises ConfigurationError: the extra that says it is empty, and it can't be told.
        """
        if pool == "dedicated":
            self.require("sql_server")
            return self.sql_server
        if self.sql_serverless_server:
            return self.sql_serverless_server
        workspace, _, rest = self.sql_server.partition(".")
        if rest.startswith("sql."):
            return f"{workspace}-ondemand.{rest}"
        raise ConfigurationError(
            f"Connection {self.id!r}: set the extra sql_serverless_server; it can't be told from sql_server "
            f"({self.sql_server or 'empty'})."
        )

    def sql_connect(
        self, autocommit: bool = True, timeout: int = 30, *, pool: Pool = "dedicated", database: str = ""
    ) -> SqlConnection:
        """A connection to a SQL pool.

        :param timeout: seconds for the log-in; statements have no limit of their own here.
        :param database: empty: the dedicated pool's, or the extra sql_serverless_database.
        :raises AccessDenied: the pool refuses the log-in (error 18456) or Entra refuses the credential.
        """
        _choose_sql_driver()
        import mssql_python

        try:
            return mssql_python.connect(
                self._sql_connection_string(pool, database),
                autocommit=autocommit,
                timeout=timeout,
                attrs_before=self._sql_attributes() or None,
            )
        except mssql_python.Error as problem:
            if "18456" in str(problem) or "Login failed" in str(problem):
                raise AccessDenied(
                    self.id, f"the SQL pool {self.sql_host(pool)} says: {first_line(problem)}"
                ) from problem
            raise

    def sqlalchemy_engine_arguments(self) -> dict[str, Any]:
        """``{"connection_string", "kwargs"}`` for SQLAlchemy and Great Expectations: ``create_engine(connection_string,
        **kwargs)``. The password isn't part of the connection string, so that a report can't show it.

        A token in it lives about an hour; ask again for each task.
        """
        _choose_sql_driver()
        self.require("sql_server", "sql_database")
        host, _, port = self.sql_server.partition(",")
        authority = f"{host}:{port}" if port else host
        url = f"mssql+mssqlpython://{authority}/{quote(self.sql_database)}?Encrypt=yes&TrustServerCertificate=no"
        connect: dict[str, Any] = {"timeout": 30}
        if self.sql_authentication == "password":
            connect |= {"UID": self.sql_login, "PWD": self.sql_password}
        else:
            connect["attrs_before"] = self._sql_attributes()
        # A dedicated pool refuses DDL inside a transaction (error 111212), temporary tables included.
        return {"connection_string": url, "kwargs": {"connect_args": connect, "isolation_level": "AUTOCOMMIT"}}

    def _sql_connection_string(self, pool: Pool = "dedicated", database: str = "") -> str:
        if pool == "dedicated" and not database:
            self.require("sql_server", "sql_database")
        parts = {
            "Server": self.sql_host(pool),
            "Database": database or (self.sql_database if pool == "dedicated" else self.sql_serverless_database),
            "Encrypt": "yes",
            "TrustServerCertificate": "no",
        }
        if self.sql_authentication == "password":
            parts |= {"UID": self.sql_login, "PWD": self.sql_password}
        return ";".join(f"{key}={_odbc_quoted(value)}" for key, value in parts.items())

    def _sql_attributes(self) -> dict[int, int | str | bytes]:
        if self.sql_authentication == "password":
            return {}
        token = self.token(self.cloud.sql_scope if self.cloud else SQL_SCOPE).encode("utf-16-le")
        return {_SQL_COPT_SS_ACCESS_TOKEN: struct.pack(f"<i{len(token)}s", len(token), token)}

    # -- the lake --------------------------------------------------------------------------------------------------

    def blob_service(self) -> BlobServiceClient:
        """The lake's storage account."""
        from azure.storage.blob import BlobServiceClient

        self.require("storage_account_url")
        return BlobServiceClient(self.storage_account_url, credential=self.credential())

    @property
    def lake_url(self) -> str:
        """HTTPS root of the lake for COPY INTO and CETAS, no slash at its end."""
        if self.lake_url_override:
            return self.lake_url_override
        self.require("storage_account_url")
        return f"{self.storage_account_url.rstrip('/').replace('.blob.', '.dfs.', 1)}/{self.container}"

    @property
    def lake_abfss_url(self) -> str:
        """``abfss://`` root of the lake for Spark, no slash at its end."""
        if self.lake_abfss_url_override:
            return self.lake_abfss_url_override
        self.require("storage_account_url")
        parts = urlsplit(self.storage_account_url)
        host = parts.hostname or ""
        if ".blob." in host:
            return f"abfss://{self.container}@{host.replace('.blob.', '.dfs.', 1)}"
        account = parts.path.strip("/").split("/")[0]
        if account and self.cloud:
            # A path-style account URL names no host of the account's own; the cloud's suffix completes it.
            suffix = self.cloud.storage_endpoint.partition(":")[0]
            return f"abfss://{self.container}@{account}.dfs.{suffix}"
        raise ConfigurationError(
            f"Connection {self.id!r}: set the extra lake_abfss_url; it can't be told from the URL."
        )

    def view(self) -> dict[str, str]:
        """What templates see as ``azure``: names and URLs, no secret."""
        return {
            "connection": self.id,
            "subscription_id": self.subscription_id,
            "resource_group": self.resource_group,
            "workspace": self.workspace,
            "synapse_endpoint": self.synapse_endpoint,
            "spark_pool": self.spark_pool,
            "sql_server": self.sql_server,
            "sql_database": self.sql_database,
            "storage_account_url": self.storage_account_url,
            "container": self.container,
            "lake_url": self.lake_url if self.storage_account_url or self.lake_url_override else "",
            "lake_abfss_url": self._abfss_or_empty(),
        }

    def _abfss_or_empty(self) -> str:
        try:
            return self.lake_abfss_url
        except ConfigurationError:
            return ""


#: They log each request, each header and each registration at INFO; a task's log is read by people.
_NOISY = ("azure", "great_expectations")


def _calm_loggers() -> None:
    """Warnings only from `_NOISY`, unless somebody has chosen a level."""
    for name in _NOISY:
        if (logger := logging.getLogger(name)).level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def _no_such_connection(conn_id: str) -> ConfigurationError:
    return ConfigurationError(
        f"There is no Airflow connection {conn_id!r}. Create it (type azflow), or name another one in model.yml."
    )


def _extras(text: str | None, where: str) -> dict[str, Any]:
    try:
        extra = json.loads(text or "{}")
    except json.JSONDecodeError as problem:
        raise ConfigurationError(f"{where}: its extras are no JSON ({problem.msg}, column {problem.colno}).") from None
    if not isinstance(extra, dict):
        raise ConfigurationError(f"{where}: its extras must be a JSON object.")
    return extra


def _text(value: object, where: str, key: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{where}: {key} must be text, not {type(value).__name__}.")
    return value


def _odbc_quoted(value: str) -> str:
    return "{" + value.replace("}", "}}") + "}" if any(sign in value for sign in ";{}=") else value


def _choose_sql_driver() -> None:
    """mssql-python's default ODBC driver needs the system's libltdl; without it, choose its driver in Rust.

    Must run before the first connection of the process; an operator's own choice in the environment stands.
    """
    import ctypes

    if "MSSQL_PYTHON_NATIVE_PROVIDER" in os.environ:
        return
    try:
        ctypes.CDLL("libltdl.so.7")
    except OSError:
        os.environ["MSSQL_PYTHON_NATIVE_PROVIDER"] = "mssql-odbc"
