"""The vault's data plane: secrets over REST, as azure-keyvault-secrets speaks it.

https://learn.microsoft.com/rest/api/keyvault/secrets/operation-groups. The vault answers at the API's own address and
at a host of its own, `<vault>.vault.<public host>`; ids and links in an answer have the host that was asked. A request
without a token is answered with the challenge that tells the client whom to ask for what:
https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import jwt
from starlette.requests import Request
from starlette.responses import Response

from localazure.core.auth import Identity, Tokens
from localazure.core.errors import NotImplementedOperation, Unauthorized
from localazure.core.registry import Answer, Handler, Operation
from localazure.keyvault.errors import VaultError, bad_parameter
from localazure.keyvault.secrets import Change, Deleted, Secrets, Version, attributes
from localazure.keyvault.vaults import Vaults
from localazure.settings import Settings

#: What azure-keyvault-secrets 4.12 can ask for; the newest last.
API_VERSIONS = (
    "2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01",
)  # fmt: skip
#: https://learn.microsoft.com/azure/key-vault/secrets/about-secrets: 25k bytes, 15 tags of 256 + 256 characters
VALUE_BYTES = 25_600
_TAGS = 15
_TAG_LENGTH = 256
_CONTENT_TYPE_LENGTH = 255
#: https://learn.microsoft.com/rest/api/keyvault/secrets/get-secrets/get-secrets: at most, and if nothing is said
_PAGE = 25
# 9999-12-31T23:59:59Z: no client's date goes further.
_LAST_SECOND = 253_402_300_799
# A value of the largest size with every character escaped, and tags.
_BODY_LIMIT = 256 * 1024
_NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")

VaultHandler = Callable[[Request], Awaitable[Answer]]


class KeyVault:
    """The one vault. Implements `Service`."""

    def __init__(self, settings: Settings, tokens: Tokens, secrets: Secrets) -> None:
        self._settings = settings
        self._tokens = tokens
        self._secrets = secrets
        self._vaults = Vaults(settings)

    def operations(self) -> list[Operation]:
        """Secrets, deleted secrets, and the vault in Resource Manager."""
        rows: list[tuple[str, str, str, VaultHandler]] = [
            ("SetSecret", "PUT", "/secrets/{name}", self._set),
            ("GetSecret", "GET", "/secrets/{name}/{version}", self._get),
            ("GetSecret_Latest", "GET", "/secrets/{name}", self._get),
            ("UpdateSecret", "PATCH", "/secrets/{name}/{version}", self._update),
            ("UpdateSecret_Latest", "PATCH", "/secrets/{name}", self._update),
            ("GetSecrets", "GET", "/secrets", self._list),
            ("GetSecretVersions", "GET", "/secrets/{name}/versions", self._versions),
            ("DeleteSecret", "DELETE", "/secrets/{name}", self._delete),
            ("GetDeletedSecrets", "GET", "/deletedsecrets", self._deleted),
            ("GetDeletedSecret", "GET", "/deletedsecrets/{name}", self._get_deleted),
            ("PurgeDeletedSecret", "DELETE", "/deletedsecrets/{name}", self._purge),
            ("RecoverDeletedSecret", "POST", "/deletedsecrets/{name}/recover", self._recover),
            ("BackupSecret", "POST", "/secrets/{name}/backup", self._backup),
            ("RestoreSecret", "POST", "/secrets/restore", self._restore),
        ]
        # Public to the registry: a vault refuses in its own words and with its own challenge.
        found = [
            Operation(name, method, path, self._guarded(handler), None, _BODY_LIMIT)
            for name, method, path, handler in rows
        ]
        return [*found, *self._vaults.operations()]

    async def start(self) -> None:
        """Nothing runs here."""

    async def stop(self) -> None:
        """Nothing runs here."""

    # ---- what comes before an operation --------

    def _guarded(self, handler: VaultHandler) -> Handler:
        """The handler behind token, API version and name; it alone sees a request that has all three."""

        async def guarded(request: Request, identity: Identity) -> Answer:
            self._authenticate(request)
            _check_version(request)
            name = request.path_params.get("name")
            if name is not None and not _NAME.fullmatch(name):
                raise bad_parameter(f"The request URI contains an invalid name: {name}")
            return await handler(request)

        return guarded

    def _authenticate(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise self._unauthorized("AKV10000: Request is missing a Bearer or PoP token.")
        try:
            self._tokens.verify(token.strip(), "vault")
        except Unauthorized as refused:
            if refused.code != "InvalidAuthenticationTokenAudience":
                raise self._unauthorized(refused.message) from None
            # Its signature is good: only then the audience is looked at.
            found = jwt.decode(token.strip(), options={"verify_signature": False})["aud"]
            message = f"AKV10022: Invalid audience. Expected {self._settings.key_vault_resource}, found: {found}."
            raise self._unauthorized(message) from None

    def _unauthorized(self, message: str) -> VaultError:
        authority = f"{self._settings.api_url}/{self._settings.tenant_id}"
        challenge = f'Bearer authorization="{authority}", resource="{self._settings.key_vault_resource}"'
        return VaultError(401, "Unauthorized", message, headers={"WWW-Authenticate": challenge})

    # ---- handlers --------

    async def _set(self, request: Request) -> Answer:
        body = await _body(request)
        value = body.get("value")
        if not isinstance(value, str):
            raise bad_parameter("Property value has invalid value: a secret's value is a string.")
        if len(value.encode()) > VALUE_BYTES:
            raise bad_parameter(f"Secret is beyond the maximum permitted length of {VALUE_BYTES} characters.")
        made = self._secrets.set(request.path_params["name"], value, _change(body))
        return {"value": value, **self._bundle(request, made)}

    async def _get(self, request: Request) -> Answer:
        if "outContentType" in request.query_params:
            raise NotImplementedOperation("GetSecret with outContentType (certificates in another format)")
        found, value = self._secrets.get(request.path_params["name"], request.path_params.get("version", ""))
        return {"value": value, **self._bundle(request, found)}

    async def _update(self, request: Request) -> Answer:
        change = _change(await _body(request))
        made = self._secrets.update(request.path_params["name"], request.path_params.get("version", ""), change)
        return self._bundle(request, made)

    async def _list(self, request: Request) -> Answer:
        return self._page(request, [(each.name.lower(), self._item(request, each)) for each in self._secrets.current()])

    async def _versions(self, request: Request) -> Answer:
        found = self._secrets.versions(request.path_params["name"])
        return self._page(request, [(each.version, self._bundle(request, each)) for each in found])

    async def _delete(self, request: Request) -> Answer:
        return self._deleted_bundle(request, self._secrets.delete(request.path_params["name"]))

    async def _deleted(self, request: Request) -> Answer:
        found = [
            (each.current.name.lower(), self._dates(request, each) | self._item(request, each.current))
            for each in self._secrets.deleted()
        ]
        return self._page(request, found)

    async def _get_deleted(self, request: Request) -> Answer:
        return self._deleted_bundle(request, self._secrets.get_deleted(request.path_params["name"]))

    async def _purge(self, request: Request) -> Answer:
        self._secrets.purge(request.path_params["name"])
        return Response(status_code=204)

    async def _recover(self, request: Request) -> Answer:
        return self._bundle(request, self._secrets.recover(request.path_params["name"]))

    async def _backup(self, request: Request) -> Answer:
        return {"value": self._secrets.backup(request.path_params["name"])}

    async def _restore(self, request: Request) -> Answer:
        value = (await _body(request)).get("value")
        if not isinstance(value, str):
            raise bad_parameter("Property value has invalid value: a backup is a string in base64url.")
        return self._bundle(request, self._secrets.restore(value.rstrip("=")))

    # ---- answers --------

    def _base(self, request: Request) -> str:
        """The vault's address as the client knows it: only that one it surely resolves."""
        asked = request.headers.get("host", "").lower().partition(":")[0]
        return self._settings.key_vault_uri if asked == self._settings.key_vault_host else self._settings.key_vault_url

    def _item(self, request: Request, version: Version) -> dict[str, Any]:
        """A secret in a list: its id has no version."""
        return self._described(f"{self._base(request)}/secrets/{version.name}", version)

    def _bundle(self, request: Request, version: Version) -> dict[str, Any]:
        return self._described(f"{self._base(request)}/secrets/{version.name}/{version.version}", version)

    def _described(self, identifier: str, version: Version) -> dict[str, Any]:
        found: dict[str, Any] = {"id": identifier, "attributes": attributes(version)}
        if version.content_type is not None:
            found["contentType"] = version.content_type
        if version.tags is not None:
            found["tags"] = version.tags
        return found

    def _dates(self, request: Request, deleted: Deleted) -> dict[str, Any]:
        return {
            "recoveryId": f"{self._base(request)}/deletedsecrets/{deleted.current.name}",
            "deletedDate": deleted.deleted_date,
            "scheduledPurgeDate": deleted.scheduled_purge_date,
        }

    def _deleted_bundle(self, request: Request, deleted: Deleted) -> dict[str, Any]:
        return self._dates(request, deleted) | self._bundle(request, deleted.current)

    def _page(self, request: Request, rows: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """The page of `rows` (key, item; in the order of their keys) that the request asks for, and the link to the
        next one.
        """
        size = _page_size(request.query_params.get("maxresults"))
        after = _marker(request.query_params.get("$skiptoken"))
        rest = [row for row in rows if row[0] > after]
        link = None
        if len(rest) > size:
            token = base64.urlsafe_b64encode(rest[size - 1][0].encode()).decode()
            version = request.query_params["api-version"]
            query = urlencode({"api-version": version, "$skiptoken": token, "maxresults": size}, safe="$")
            link = f"{self._base(request)}{request.url.path}?{query}"
        return {"value": [item for _, item in rest[:size]], "nextLink": link}


def _check_version(request: Request) -> None:
    version = request.query_params.get("api-version", "")
    if not version:
        raise bad_parameter("api-version must be specified")
    if version.lower() not in API_VERSIONS:
        raise bad_parameter(
            f"The specified version ({version}) is not recognized. Consider using the latest supported version "
            f"({API_VERSIONS[-1]})."
        )


async def _body(request: Request) -> dict[str, Any]:
    body = await request.json()
    if not isinstance(body, dict):
        raise bad_parameter("The request body must be a JSON object.")
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad_parameter("The request body isn't Unicode: it has half of a surrogate pair.") from None
    return body


def _change(body: dict[str, Any]) -> Change:
    """Attributes, content type and tags of a request's body. Raises VaultError 400."""
    given, content_type, tags = (body.get(name) for name in ("attributes", "contentType", "tags"))
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise bad_parameter("Property attributes has invalid value: it is an object.")
    enabled = given.get("enabled")
    if not isinstance(enabled, bool | None):
        raise bad_parameter("Property enabled has invalid value: it is true or false.")
    for name in ("nbf", "exp"):
        time = given.get(name)
        if time is not None and (isinstance(time, bool) or not isinstance(time, int) or not 0 <= time <= _LAST_SECOND):
            raise bad_parameter(
                f"Property {name} has invalid value: it is a number of seconds since 1970-01-01, until the year 9999."
            )
    if not isinstance(content_type, str | None) or len(content_type or "") > _CONTENT_TYPE_LENGTH:
        raise bad_parameter(
            f"Property contentType has invalid value: it has at most {_CONTENT_TYPE_LENGTH} characters."
        )
    if tags is not None and not _are_tags(tags):
        raise bad_parameter(
            f"Property tags has invalid value: there are at most {_TAGS} tags, names and values are strings of at most "
            f"{_TAG_LENGTH} characters."
        )
    return Change(enabled, given.get("nbf"), given.get("exp"), content_type, tags)


def _are_tags(tags: object) -> bool:
    return (
        isinstance(tags, dict)
        and len(tags) <= _TAGS
        and all(isinstance(text, str) and len(text) <= _TAG_LENGTH for pair in tags.items() for text in pair)
    )


def _page_size(text: str | None) -> int:
    if text is None:
        return _PAGE
    if not text.isdigit() or not 1 <= int(text) <= _PAGE:
        raise bad_parameter(f"The maxresults '{text}' is invalid: it must be between 1 and {_PAGE}.")
    return int(text)


def _marker(token: str | None) -> str:
    try:
        return base64.b64decode(token or "", altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise bad_parameter("The $skiptoken is invalid: take the link to the next page as it is.") from None
