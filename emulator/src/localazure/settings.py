"""localazure's settings: (name, default, help) rows, kept in `<home>/settings.json`.

The first `Settings.load` of a home writes the file, with secrets of its own. Every secret begins with `local-only~`, so
that a client can refuse by value to send it to the public Azure.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import uuid
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

LOCAL_SECRET_PREFIX = "local-only~"

# Above the privileged ones, with room for those counted from the base.
_PORTS = range(1024, 65001)

_PACKAGE = Path(__file__).resolve().parent
# In a checkout, .../emulator/src/localazure: the environments that the project's scripts build are beside `emulator`.
_EMULATOR = _PACKAGE.parents[1]
_CHECKOUT = _PACKAGE.parents[2]


def _secret() -> str:
    return LOCAL_SECRET_PREFIX + secrets.token_urlsafe(30)


def _account_key() -> str:
    # A storage account's key is 64 random bytes in base64.
    return base64.b64encode(secrets.token_bytes(64)).decode()


def _sql_password() -> str:
    # Synapse wants three of four character classes.
    return LOCAL_SECRET_PREFIX + secrets.token_urlsafe(20) + "aA1"


def _compute_python() -> str:
    built = _CHECKOUT / "var/env/compute/bin/python"
    return str(built) if built.exists() else "python3"


def _azurite() -> list[str]:
    program = _EMULATOR / "node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        return [shutil.which("azurite-blob") or "azurite-blob"]
    brought = _CHECKOUT / "var/env/node/bin/node"
    return [str(brought) if brought.exists() else shutil.which("node") or "node", str(program)]


@dataclass(frozen=True)
class Setting:
    """A row: `default` is a value, or a function called when the home is made (generated) or loaded (computed)."""

    name: str
    default: Any
    help: str
    generated: bool = False
    variable: str | None = None

    def shown_default(self) -> str:
        """The default in words: the value, or where it comes from."""
        if self.generated:
            return "generated"
        return "found" if callable(self.default) else str(self.default)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "port_base",
        18400,
        "first of the ports: API, TDS, blobs, router, MLflow, Caddy's admin, ...",
        variable="LOCALAZURE_PORT_BASE",
    ),
    Setting(
        "public_host",
        "localhost",
        "the name clients reach it by: in URLs and certificates (a container's name)",
        variable="LOCALAZURE_PUBLIC_HOST",
    ),
    Setting(
        "bind_host",
        "127.0.0.1",
        "the address API, TDS, blobs and router listen on; 0.0.0.0 only inside a container's private network",
        variable="LOCALAZURE_BIND_HOST",
    ),
    Setting("tenant_id", "10ca1000-0000-4000-8000-000000000001", "the only tenant"),
    Setting("client_id", "10ca1000-0000-4000-8000-000000000002", "the only application (service principal)"),
    Setting("client_secret", _secret, "the application's secret", generated=True),
    Setting("subscription_id", "10ca1000-0000-4000-8000-000000000003", "the only subscription"),
    Setting("resource_group", "rg-azflow", "the only resource group"),
    Setting("workspace", "ml-azflow", "the Azure Machine Learning workspace"),
    Setting(
        "second_workspace",
        "ml-azflow-dev",
        "another Azure Machine Learning workspace, without endpoints: models are promoted from it; empty for none",
    ),
    Setting("registry", "azflow-registry", "the Azure Machine Learning registry that is there from the start"),
    Setting("location", "local", "the region everything claims to be in"),
    Setting("storage_account", "azflowlake", "the storage account"),
    Setting("storage_account_key", _account_key, "the storage account's key (base64)", generated=True),
    Setting("container", "lake", "the data lake's container; Azure ML's own is `azureml`"),
    Setting("key_vault", "kv-azflow", "the key vault"),
    Setting("sql_database", "azflow", "the dedicated SQL pool"),
    Setting("sql_login", "sqladmin", "the SQL administrator"),
    Setting("sql_password", _sql_password, "the SQL administrator's password", generated=True),
    Setting("spark_pool", "sparkpool", "the Spark pool"),
    Setting(
        "compute_python",
        _compute_python,
        "the interpreter that runs jobs, notebooks and scoring",
        variable="LOCALAZURE_COMPUTE_PYTHON",
    ),
    Setting("azurite", _azurite, "the command that starts Azurite's blob service", variable="LOCALAZURE_AZURITE"),
)


@dataclass(frozen=True, repr=False)
class Settings:
    """One home's settings. `load` is the way to make one."""

    home: Path
    port_base: int
    public_host: str
    bind_host: str
    tenant_id: str
    client_id: str
    client_secret: str
    subscription_id: str
    resource_group: str
    workspace: str
    second_workspace: str
    registry: str
    location: str
    storage_account: str
    storage_account_key: str
    container: str
    key_vault: str
    sql_database: str
    sql_login: str
    sql_password: str
    spark_pool: str
    compute_python: Path
    azurite: list[str]

    @classmethod
    def load(cls, home: Path | None = None, **overrides: Any) -> Settings:
        """The settings of `home` (else LOCALAZURE_HOME, else `var/localazure` under the current folder).

        Makes the folder and its `settings.json` at first use. `overrides` are kept in the file. Precedence:
        overrides, environment variables, the file, defaults.
        """
        folder = Path(home or os.environ.get("LOCALAZURE_HOME") or "var/localazure").absolute()
        known = {row.name for row in SETTINGS}
        if unknown := sorted(set(overrides) - known):
            raise ValueError(f"there is no setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        kept = _kept(folder)
        if unknown := sorted(set(kept) - known):
            raise ValueError(f"{folder / 'settings.json'}: unknown setting {', '.join(unknown)}")
        if changed := {name: value for name, value in overrides.items() if kept.get(name) != value}:
            kept |= changed
            _write_private(folder / "settings.json", kept)
        values: dict[str, Any] = {}
        for row in SETTINGS:
            if row.name in overrides:
                values[row.name] = overrides[row.name]
            elif row.variable and os.environ.get(row.variable):
                values[row.name] = os.environ[row.variable]
            elif row.name in kept:
                values[row.name] = kept[row.name]
            else:
                values[row.name] = row.default() if callable(row.default) else row.default
        values["port_base"] = _port(values["port_base"])
        values["public_host"] = _host_name(values["public_host"])
        values["key_vault"] = _vault_name(values["key_vault"])
        # Not resolved: a virtual environment's interpreter is a link, and only by that name it finds its packages.
        values["compute_python"] = Path(values["compute_python"])
        if isinstance(values["azurite"], str):
            values["azurite"] = shlex.split(values["azurite"])
        return cls(home=folder, **values)

    def __repr__(self) -> str:
        # Secrets must not reach a log or a traceback.
        shown = ", ".join(
            f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name in {"home", "port_base", "workspace"}
        )
        return f"Settings({shown})"

    # Ports and URLs. MLflow, the router's administration and the inference servers have no log-in of their own: they
    # listen on the loopback interface whatever `bind_host` says.
    @property
    def api_port(self) -> int:
        return self.port_base

    @property
    def tds_port(self) -> int:
        return self.port_base + 1

    @property
    def blob_port(self) -> int:
        return self.port_base + 2

    @property
    def router_port(self) -> int:
        return self.port_base + 3

    @property
    def mlflow_port(self) -> int:
        return self.port_base + 4

    @property
    def admin_port(self) -> int:
        return self.port_base + 5

    @property
    def inner_router_port(self) -> int:
        """Where the router's inner process listens, for the outer one only."""
        return self.port_base + 6

    @property
    def data_collector_port(self) -> int:
        """Where deployments send what they collect."""
        return self.port_base + 7

    @property
    def serverless_port(self) -> int:
        """Where the workspace's serverless SQL pool (`<workspace>-ondemand`) answers; the dedicated one: `tds_port`."""
        return self.port_base + 8

    @property
    def inference_port_base(self) -> int:
        """The first port of the inference servers."""
        return self.port_base + 20

    @property
    def api_url(self) -> str:
        return f"https://{self.public_host}:{self.api_port}"

    @property
    def blob_url(self) -> str:
        """The blob service in path style, with the account: `https://localhost:18402/azflowlake`."""
        return f"https://{self.public_host}:{self.blob_port}/{self.storage_account}"

    @property
    def router_url(self) -> str:
        return f"https://{self.public_host}:{self.router_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def admin_url(self) -> str:
        """Caddy's admin interface."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def sql_server(self) -> str:
        return f"{self.public_host},{self.tds_port}"

    @property
    def sql_server_ondemand(self) -> str:
        return f"{self.public_host},{self.serverless_port}"

    @property
    def key_vault_url(self) -> str:
        """The key vault, at an address that needs no name of its own; its paths are at the root, as clients want it.

        Azure's SDKs must be told there not to compare the vault's name with the resource of its tokens
        (`verify_challenge_resource=False`). At `key_vault_uri` they needn't.
        """
        return self.api_url

    @property
    def key_vault_host(self) -> str:
        """The vault's own host, in the place of `<vault>.vault.azure.net`."""
        return f"{self.key_vault}.vault.{self.public_host}"

    @property
    def key_vault_uri(self) -> str:
        """The key vault at its own host, which must resolve: `https://kv-azflow.vault.localhost:18400`."""
        return f"https://{self.key_vault_host}:{self.api_port}"

    @property
    def key_vault_resource(self) -> str:
        """The resource of tokens for the vault, in the place of `https://vault.azure.net` (which is good as well)."""
        return f"https://vault.{self.public_host}:{self.api_port}"

    @property
    def key_vault_id(self) -> str:
        """The key vault's ARM id."""
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.KeyVault/vaults/{self.key_vault}"
        )

    @property
    def workspace_id(self) -> str:
        """The workspace's ARM id."""
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        )

    @property
    def workspace_guid(self) -> str:
        """The workspace's own id, as in the ids of its assets."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.workspace_id))

    # Files.
    @property
    def tls(self) -> Path:
        return self.home / "tls"

    @property
    def ca_certificate(self) -> Path:
        return self.tls / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        return self.tls / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.tls / "server-key.pem"

    @property
    def ca_bundle(self) -> Path:
        """The public authorities and localazure's own: for REQUESTS_CA_BUNDLE and SSL_CERT_FILE."""
        return self.tls / "bundle.pem"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def store_file(self) -> Path:
        return self.home / "store.sqlite"

    @property
    def faults(self) -> Path:
        """Where faults are asked for."""
        return self.home / "faults"

    @property
    def clock_file(self) -> Path:
        """Where the clock of schedules is kept if it was set from outside."""
        return self.home / "clock.json"

    @property
    def compute_source(self) -> Path:
        """The folder of the modules that run inside jobs and notebooks (on their PYTHONPATH)."""
        return _EMULATOR / "compute"

    def connection(self) -> dict[str, Any]:
        """What a client needs to know: the content of connection.json. Holds secrets."""
        return {
            "api_url": self.api_url,
            "tenant_id": self.tenant_id,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "subscription_id": self.subscription_id,
            "resource_group": self.resource_group,
            "workspace": self.workspace,
            "second_workspace": self.second_workspace,
            "registry": self.registry,
            "location": self.location,
            "storage_account": self.storage_account,
            "storage_account_url": self.blob_url,
            "container": self.container,
            "key_vault": self.key_vault,
            "key_vault_url": self.key_vault_url,
            "synapse_endpoint": self.api_url,
            "sql_server": self.sql_server,
            "sql_server_ondemand": self.sql_server_ondemand,
            "sql_database": self.sql_database,
            "sql_login": self.sql_login,
            "sql_password": self.sql_password,
            "spark_pool": self.spark_pool,
            "ca_bundle": str(self.ca_bundle),
            "router_url": self.router_url,
            "mlflow_url": self.mlflow_url,
        }

    def write_connection(self, folder: Path | None = None) -> Path:
        """Write connection.json (readable by its owner only) to the home; the file's path.

        To another `folder`, which clients in other containers can see, the CA bundle is copied beside it.
        """
        if folder is None:
            path = self.home / "connection.json"
            _write_private(path, self.connection())
            return path
        folder.mkdir(parents=True, exist_ok=True)
        path, bundle = folder / "connection.json", folder / self.ca_bundle.name
        bundle.write_bytes(self.ca_bundle.read_bytes())
        _write_private(path, self.connection() | {"ca_bundle": str(bundle)})
        return path


def _kept(folder: Path) -> dict[str, Any]:
    """The content of settings.json, written with fresh secrets if there is none yet."""
    path = folder / "settings.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        draft = folder / f"settings.json.{os.getpid()}.{secrets.token_hex(4)}"
        _write_private(draft, {row.name: row.default() for row in SETTINGS if row.generated})
        # A link fails if the file is there by now: of several processes the first one's secrets win.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    try:
        kept = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} isn't JSON ({error}); repair it, or remove the home folder") from None
    if not isinstance(kept, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return kept


def _port(value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        raise ValueError(f"port_base must be a number, not {value!r}") from None
    if port not in _PORTS:
        raise ValueError(f"port_base must be between {_PORTS.start} and {_PORTS.stop - 1}, not {port}")
    return port


def _host_name(value: Any) -> str:
    # A dot would make Azurite read the account out of the name: https://github.com/Azure/Azurite#production-style-url
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise ValueError(f"public_host must be one lower-case label (letters, digits, hyphens), not {value!r}")
    return value


def _vault_name(value: Any) -> str:
    # https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#vault-name-and-object-name
    if not isinstance(value, str) or not re.fullmatch(r"(?!.*--)[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]", value):
        raise ValueError(
            "key_vault must be 3 to 24 letters, digits and single hyphens, begin with a letter and end with a letter "
            f"or digit, not {value!r}"
        )
    return value.lower()


def _write_private(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to a file that only its owner may read, all or nothing."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    draft.replace(path)
