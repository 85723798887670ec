"""The certificate authority of a home, and the one server certificate that everything presents.

TLS is compulsory: Azure's SDKs refuse to send a bearer token over plain HTTP
(https://github.com/Azure/azure-sdk-for-python/blob/main/sdk/core/azure-core/azure/core/pipeline/policies/_authentication.py).
The authority's name constraints (RFC 5280, 4.2.1.10) permit `localhost`, the home's public host, the names below both
and loopback addresses only, so that its key is worth nothing elsewhere, even where somebody trusts it for good.
"""

from __future__ import annotations

import datetime
import os
import secrets
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from localazure.settings import Settings

_CA_DAYS = 3650
# Apple's systems refuse server certificates that are valid for longer (https://support.apple.com/en-us/103769).
_SERVER_DAYS = 825
_RENEW_DAYS = 30
_KEY_BITS = 2048


def ensure(settings: Settings) -> None:
    """Make what is missing or about to expire below `<home>/tls`: authority, server certificate, bundle."""
    folder = settings.tls
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority = _load(settings.ca_certificate, folder / "ca-key.pem")
    if authority is None or not _hosts(settings) <= _permitted(authority[0]):
        authority = _authority(settings)
        _write(settings.ca_certificate, folder / "ca-key.pem", *authority)
        settings.server_certificate.unlink(missing_ok=True)
    server = _load(settings.server_certificate, settings.server_key)
    if server is None or not _names(settings) <= _present(server[0]):
        _write(settings.server_certificate, settings.server_key, *_server(settings, *authority))
    # certifi's and not the system's: it is there on every platform and in every container.
    bundle = Path(certifi.where()).read_bytes().rstrip() + b"\n\n" + _pem(authority[0])
    if not settings.ca_bundle.exists() or settings.ca_bundle.read_bytes() != bundle:
        _replace(settings.ca_bundle, bundle, 0o644)


def _names(settings: Settings) -> set[str]:
    account = settings.storage_account
    # Clients differ in what they accept of wildcards, so the account's names are there in full as well.
    below = (
        "*", f"{account}.blob.core", f"{account}.dfs.core", "*.blob.core", "*.dfs.core", f"{settings.key_vault}.vault",
    )  # fmt: skip
    return _hosts(settings) | {f"{name}.{host}" for host in _hosts(settings) for name in below}


def _hosts(settings: Settings) -> set[str]:
    return {"localhost", settings.public_host}


def _permitted(authority: x509.Certificate) -> set[str]:
    """The names (and those below them) that an authority may sign for."""
    constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    return {name.value for name in constraints.permitted_subtrees or () if isinstance(name, x509.DNSName)}


def _present(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


def _authority(settings: Settings) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    # A name of its own, so that two homes' authorities can't be taken for each other in a trust store.
    name = _name(f"localazure {secrets.token_hex(4)}")
    permitted: list[x509.GeneralName] = [
        *(x509.DNSName(host) for host in sorted(_hosts(settings))),
        x509.IPAddress(IPv4Network("127.0.0.0/8")),
        x509.IPAddress(IPv6Network("::1/128")),
    ]
    certificate = (
        _builder(name, name, key, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _server(
    settings: Settings, authority: x509.Certificate, authority_key: rsa.RSAPrivateKey
) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(_names(settings))]
    names += [x509.IPAddress(IPv4Address("127.0.0.1")), x509.IPAddress(IPv6Address("::1"))]
    certificate = (
        _builder(_name(settings.public_host), authority.subject, key, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate, key


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of containers and virtual machines differ a little.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "localazure"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _load(certificate: Path, key: Path) -> tuple[x509.Certificate, rsa.RSAPrivateKey] | None:
    """The pair, if it is there and good for some time still."""
    if not (certificate.exists() and key.exists()):
        return None
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
    if not isinstance(private, rsa.RSAPrivateKey) or loaded.not_valid_after_utc < soon:
        return None
    return loaded, private


def _write(certificate: Path, key: Path, signed: x509.Certificate, private: rsa.RSAPrivateKey) -> None:
    _replace(key, private_pem(private), 0o600)
    _replace(certificate, _pem(signed), 0o644)


def private_pem(key: rsa.RSAPrivateKey) -> bytes:
    """An unencrypted PKCS #8 key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _replace(path: Path, content: bytes, mode: int) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    draft.replace(path)
