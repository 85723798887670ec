"""Access tokens: JSON web tokens, signed by this home's key (RS256), in the form of Microsoft Entra's v1 tokens.

Claims: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference. Azurite checks `iss`
(`https://sts.windows.net/...`) and `aud` of what it is sent, not the signature (its `--oauth basic`).
"""

from __future__ import annotations

import base64
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from localazure.core import certificates, keys
from localazure.core.errors import BadRequest, Unauthorized
from localazure.settings import Settings

LIFETIME_SECONDS = 3600


@dataclass(frozen=True)
class Identity:
    """Who sent a request: the application's object id, its tenant, and the token's claims."""

    subject: str
    tenant: str
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)


# What the handler of a public operation is given.
ANONYMOUS = Identity(subject="", tenant="")


class Tokens:
    """Issues and verifies access tokens. Thread-safe; several processes may share a home's key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._audiences = {
            # Azure ML's data plane (run history, MLflow) takes Resource Manager's tokens and its own.
            "arm": _with_and_without_slash(
                settings.api_url,
                "https://management.azure.com",
                "https://management.core.windows.net",
                "https://ml.azure.com",
            ),
            "synapse": _with_and_without_slash("https://dev.azuresynapse.net", settings.api_url),
            "sql": _with_and_without_slash("https://database.windows.net"),
            "storage": _with_and_without_slash("https://storage.azure.com"),
            # Key Vault refuses the audience with a slash (AKV10022).
            "vault": frozenset({"https://vault.azure.net", settings.key_vault_resource}),
            # Online endpoints take Entra's tokens for Azure ML, or tokens of their own.
            "scoring": _with_and_without_slash("https://ml.azure.com"),
            "endpoint": frozenset({"urn:azureml:onlineEndpoint"}),
        }

    @property
    def issuer(self) -> str:
        return f"https://sts.windows.net/{self._settings.tenant_id}/"

    @property
    def object_id(self) -> str:
        """The object id of the only service principal."""
        return str(uuid.uuid5(uuid.UUID(self._settings.tenant_id), self._settings.client_id))

    def groups(self) -> frozenset[str]:
        """The audience groups that `verify` knows."""
        return frozenset(self._audiences)

    def audiences(self) -> frozenset[str]:
        """Every resource a token may be asked for."""
        return frozenset().union(*self._audiences.values())

    def issue(self, subject: str, audience: str, *, lifetime_seconds: int = LIFETIME_SECONDS, **claims: Any) -> str:
        """A token for `audience` (a resource, not a group)."""
        now = int(time.time())
        content: dict[str, Any] = {
            "aud": audience,
            "iss": self.issuer,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
            "appid": self._settings.client_id,
            "appidacr": "1",
            "idtyp": "app",
            "idp": self.issuer,
            "oid": subject,
            "sub": subject,
            "tid": self._settings.tenant_id,
            "uti": secrets.token_urlsafe(16),
            "ver": "1.0",
        }
        return jwt.encode(content | claims, self._key, algorithm="RS256", headers={"kid": self._key_id})

    def of_managed_identity(self, resource: str) -> dict[str, str]:
        """What a managed identity's endpoint answers: the application's token for `resource`, and when it ends.

        Raises BadRequest if there is no such resource.
        https://learn.microsoft.com/azure/app-service/overview-managed-identity, of the api-version 2017-09-01
        """
        if resource not in self.audiences():
            known = ", ".join(sorted(each for each in self.audiences() if not each.endswith("/")))
            raise BadRequest(f"There is no resource '{resource}'; there are {known}.", "resource", "UserError")
        expires = int(time.time()) + LIFETIME_SECONDS
        token = self.issue(self.object_id, resource)
        return {"access_token": token, "expires_on": str(expires), "resource": resource, "token_type": "Bearer"}

    def verify(self, token: str, group: str) -> Identity:
        """The identity behind a token meant for an audience group: "arm", "synapse", "sql", "storage", ...

        Raises Unauthorized if the signature, issuer, audience or time isn't good.
        """
        audiences = self._audiences[group]
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["RS256"],
                audience=list(audiences),
                issuer=self.issuer,
                leeway=30,
                options={"require": ["exp", "iss", "aud", "sub", "tid"]},
            )
        except jwt.ExpiredSignatureError:
            raise self._refused("The access token expired.", "ExpiredAuthenticationToken") from None
        except jwt.InvalidAudienceError:
            wanted = sorted(audiences)[0]
            raise self._refused(
                f"The access token has been obtained for the wrong audience; '{wanted}' is expected here.",
                "InvalidAuthenticationTokenAudience",
            ) from None
        except jwt.InvalidTokenError as error:
            # PyJWT's messages name the fault, never the token.
            raise self._refused(f"The access token is invalid: {error}.", "InvalidAuthenticationToken") from None
        return Identity(subject=claims["sub"], tenant=claims["tid"], claims=claims)

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set (RFC 7517)."""
        numbers = self._key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "kid": self._key_id,
                    "n": _base64url(numbers.n),
                    "e": _base64url(numbers.e),
                }
            ]
        }

    def challenge(self) -> dict[str, str]:
        """The header of a 401, as Resource Manager sends it (RFC 6750, 3)."""
        authority = f"{self._settings.api_url}/{self._settings.tenant_id}"
        return {"WWW-Authenticate": f'Bearer authorization_uri="{authority}", error="invalid_token"'}

    def _refused(self, message: str, code: str) -> Unauthorized:
        return Unauthorized(message, code, self.challenge())

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        path = self._settings.home / "keys" / "tokens.pem"
        if not path.exists():
            made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            keys.write_once(path, certificates.private_pem(made))
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError(f"{path} isn't an RSA key; remove it, and a new one is made")
        return key

    @cached_property
    def _key_id(self) -> str:
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(public)
        return base64.urlsafe_b64encode(digest.finalize()[:15]).decode()


def _with_and_without_slash(*audiences: str) -> frozenset[str]:
    return frozenset(audiences) | {audience + "/" for audience in audiences}


def _base64url(number: int) -> str:
    content = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
