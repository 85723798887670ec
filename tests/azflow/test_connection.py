"""The Airflow connection: what is read, what is refused, and that no secret is shown."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError

from azflow.connection import LOCAL_SECRET_PREFIX, AzureConnection
from azflow.credentials import async_transport
from azflow.errors import AccessDenied, ConfigurationError

CLOUD = {
    "name": "private",
    "authority": "https://login.private.example:8443",
    "resource_manager": "https://arm.private.example:8443/",
    "portal": "https://portal.private.example",
    "storage_endpoint": "core.private.example:8402",
    "aml_resource_id": "https://ml.private.example",
}


def parse(*, login: str | None = "client", password: str | None = "s3cret", **extra: Any) -> AzureConnection:
    extra = {"tenant_id": "tenant"} | extra
    return AzureConnection.parse(
        SimpleNamespace(conn_id="c1", conn_type="azflow", login=login, password=password, extra=json.dumps(extra))
    )


def test_load_and_aload_read_airflows_connection() -> None:
    loaded = AzureConnection.load("azure_default")
    assert loaded.client_id == "client" and loaded.workspace == "ws"
    assert asyncio.run(AzureConnection.aload("azure_default")) == loaded


def test_a_missing_connection_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'nowhere'"):
        AzureConnection.load("nowhere")


def test_no_secret_is_shown() -> None:
    loaded = parse(sql_authentication="password", sql_login="sa", sql_password="pa55")
    for text in (repr(loaded), str(loaded), str(loaded.view())):
        assert "s3cret" not in text and "pa55" not in text


@pytest.mark.parametrize("cloud", [None, {**CLOUD}])
@pytest.mark.parametrize("field", ["password", "sql_password"])
def test_a_stand_ins_secret_is_refused_for_public_azure(field: str, cloud: Any) -> None:
    secret = f"{LOCAL_SECRET_PREFIX}abc"
    arguments: dict[str, Any] = {"cloud": cloud}
    if field == "password":
        arguments["password"] = secret
    else:
        arguments |= {"sql_authentication": "password", "sql_login": "sa", "sql_password": secret}
    if cloud is not None:
        parse(**arguments)
        return
    with pytest.raises(ConfigurationError, match="stand-in") as refused:
        parse(**arguments)
    assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spark_pol": "x"}, "unknown extra.*spark_pol"),
        ({"workspace": 3}, "workspace must be text"),
        ({"sql_authentication": "magic"}, "sql_authentication is 'magic'"),
        ({"sql_authentication": "password"}, "needs sql_login and sql_password"),
        ({"cloud": "private"}, "cloud must be an object"),
        ({"cloud": {**CLOUD, "authority": ""}}, "cloud lacks authority"),
        ({"cloud": {**CLOUD, "autority": "x"}}, "unknown key.*autority"),
        ({"tenant_id": ""}, "needs a client id .* tenant_id"),
        ({"verify": "/no/such/bundle.pem"}, "/no/such/bundle.pem"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        parse(**change)
    assert "'c1'" in str(refused.value)


@pytest.mark.parametrize(("text", "message"), [("{", "no JSON"), ("[]", "must be a JSON object")])
def test_extras_must_be_a_json_object(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AzureConnection.parse(SimpleNamespace(conn_id="c", conn_type="azflow", login="", password="", extra=text))


def test_another_type_of_connection_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="type 'wasb'"):
        AzureConnection.parse(SimpleNamespace(conn_id="c", conn_type="wasb", login="", password="", extra="{}"))


def test_missing_extras_are_listed_when_they_are_needed() -> None:
    with pytest.raises(ConfigurationError, match="subscription_id, resource_group, workspace"):
        _ = parse().ml_workspace_url


def test_public_azure() -> None:
    loaded = parse(
        subscription_id="s", resource_group="g", workspace="w", storage_account_url="https://acc.blob.core.windows.net/"
    )
    assert loaded.arm_scope == "https://management.azure.com/.default"
    assert loaded.ml_workspace_url == (
        "https://management.azure.com/subscriptions/s/resourceGroups/g"
        "/providers/Microsoft.MachineLearningServices/workspaces/w"
    )
    assert loaded.lake_url == "https://acc.dfs.core.windows.net/lake"
    assert loaded.lake_abfss_url == "abfss://lake@acc.dfs.core.windows.net"


def test_a_private_cloud() -> None:
    loaded = parse(cloud=CLOUD, storage_account_url="https://localhost:8402/acc", container="data")
    assert loaded.arm_scope == "https://arm.private.example:8443/.default"
    assert loaded.lake_url == "https://localhost:8402/acc/data"
    assert loaded.lake_abfss_url == "abfss://data@acc.dfs.core.private.example"
    assert loaded._identity_arguments == {"authority": CLOUD["authority"], "disable_instance_discovery": True}


def test_overrides_of_the_lakes_urls() -> None:
    loaded = parse(lake_url="https://x/y/", lake_abfss_url="abfss://a@b/")
    assert (loaded.lake_url, loaded.lake_abfss_url) == ("https://x/y", "abfss://a@b")


def test_the_view_has_no_abfss_url_where_none_can_be_told() -> None:
    loaded = parse(storage_account_url="https://localhost:1/acc")
    assert loaded.view()["lake_abfss_url"] == ""
    with pytest.raises(ConfigurationError, match="lake_abfss_url"):
        _ = loaded.lake_abfss_url


def test_a_ca_bundle_becomes_the_process_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "before")
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    parse(verify=str(bundle))
    assert os.environ["REQUESTS_CA_BUNDLE"] == os.environ["SSL_CERT_FILE"] == str(bundle)


class Refusing:
    """An identity service that knows no such secret."""

    def get_token(self, *scopes: str, **arguments: Any) -> Any:
        raise ClientAuthenticationError("AADSTS7000215: Invalid client secret provided.\nTrace ID: 1")

    get_token_info = get_token

    def close(self) -> None: ...


def test_a_refused_secret_names_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = parse()
    monkeypatch.setattr("azure.identity.ClientSecretCredential", lambda *_, **__: Refusing())
    for ask in (lambda: loaded.token("https://x/.default"), lambda: loaded.credential().get_token_info("https://x")):
        with pytest.raises(AccessDenied, match="Connection 'c1' was refused: AADSTS7000215") as denied:
            ask()
        assert "Trace ID" not in str(denied.value) and "s3cret" not in str(denied.value)


def test_a_sql_token_is_handed_over_as_the_driver_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = parse(sql_server="pool.sql.azuresynapse.net", sql_database="db")
    monkeypatch.setattr(AzureConnection, "token", lambda self, scope: f"token for {scope}")
    (packed,) = loaded._sql_attributes().values()
    assert isinstance(packed, bytes)
    (length,) = struct.unpack_from("<i", packed)
    assert packed[4:].decode("utf-16-le") == "token for https://database.windows.net/.default"
    assert length == len(packed) - 4
    assert "PWD" not in loaded._sql_connection_string()


def test_sql_connection_strings_quote_what_needs_it() -> None:
    loaded = parse(
        sql_server="localhost,18401",
        sql_database="db",
        sql_authentication="password",
        sql_login="sa",
        sql_password="a;b}c{",
    )
    assert loaded._sql_connection_string() == (
        "Server=localhost,18401;Database=db;Encrypt=yes;TrustServerCertificate=no;UID=sa;PWD={a;b}}c{}"
    )
    engine = loaded.sqlalchemy_engine_arguments()
    assert "a;b" not in engine["connection_string"]
    assert engine["connection_string"].startswith("mssql+mssqlpython://localhost:18401/db?")
    assert engine["kwargs"]["connect_args"]["PWD"] == "a;b}c{"


def test_requests_of_the_event_loop_share_one_tls_connection(tmp_path: Path) -> None:
    from azure.core import AsyncPipelineClient
    from azure.core.rest import HttpRequest

    from fake_endpoint import FakeEndpoint

    server = FakeEndpoint(tmp_path)
    accepted = []
    accept = server._server.get_request
    server._server.get_request = lambda: accepted.append(accept()) or accepted[-1]  # type: ignore[method-assign]

    async def ask() -> list[int]:
        transport = async_transport(str(server.certificate))
        async with AsyncPipelineClient(server.url, policies=[], transport=transport) as client:
            answers = [await client.send_request(HttpRequest("GET", f"{server.url}/tenant/openid-configuration"))
                       for _ in range(5)]  # fmt: skip
            return [answer.status_code for answer in answers]

    try:
        assert asyncio.run(ask()) == [200] * 5
    finally:
        server.close()
    assert len(accepted) == 1
