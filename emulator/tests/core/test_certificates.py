from __future__ import annotations

import contextlib
import ssl
import stat

import pytest
from cryptography import x509

from localazure.core import certificates
from localazure.settings import Settings


def test_what_is_there_is_kept(certified: Settings) -> None:
    before = {path.name: path.read_bytes() for path in certified.tls.iterdir()}
    certificates.ensure(certified)
    assert {path.name: path.read_bytes() for path in certified.tls.iterdir()} == before
    assert set(before) == {"ca.pem", "ca-key.pem", "server.pem", "server-key.pem", "bundle.pem"}


def test_keys_are_private(certified: Settings) -> None:
    for name in ("ca-key.pem", "server-key.pem"):
        assert stat.S_IMODE((certified.tls / name).stat().st_mode) == 0o600


def handshake(settings: Settings, name: str) -> None:
    """A TLS handshake in memory: the server's certificate against the bundle, for `name`."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(settings.server_certificate, settings.server_key)
    client_context = ssl.create_default_context(cafile=str(settings.ca_bundle))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "127.0.0.1",
        "::1",
        "azflowlake.blob.core.localhost",
        "azflowlake.dfs.core.localhost",
        "kv-azflow.vault.localhost",
    ],
)
def test_clients_accept_every_name_of_the_server(certified: Settings, name: str) -> None:
    handshake(certified, name)


def test_clients_refuse_other_names(certified: Settings) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certified, "management.azure.com")


def test_the_authority_may_sign_for_this_machine_only(certified: Settings) -> None:
    authority = x509.load_pem_x509_certificate(certified.ca_certificate.read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees is not None
    names = [n.value for n in constraints.value.permitted_subtrees if isinstance(n, x509.DNSName)]
    assert names == ["localhost"]


def test_another_account_gets_another_server_certificate_of_the_same_authority(settings: Settings) -> None:
    certificates.ensure(settings)
    authority = settings.ca_certificate.read_bytes()
    changed = Settings.load(settings.home, storage_account="other")
    certificates.ensure(changed)
    handshake(changed, "other.blob.core.localhost")
    assert settings.ca_certificate.read_bytes() == authority


@pytest.mark.parametrize("name", ["localazure", "azflowlake.blob.core.localazure", "localhost"])
def test_a_public_host_gets_an_authority_that_may_sign_for_it(settings: Settings, name: str) -> None:
    certificates.ensure(settings)
    changed = Settings.load(settings.home, public_host="localazure")
    certificates.ensure(changed)
    handshake(changed, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(changed, "another-container")
