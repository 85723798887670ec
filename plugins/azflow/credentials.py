"""Token credentials whose refusals name the Airflow connection they come from, and the client that owns one.

Every SDK asks the credential for its token, so that a wrong secret is told as `AccessDenied` whoever finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from azflow.errors import AccessDenied, first_line

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions


class NamedCredential:
    """A token credential whose refusals name the Airflow connection."""

    def __init__(self, inner: Any, connection_id: str) -> None:
        self._inner = inner
        self._connection_id = connection_id

    def get_token(self, *scopes: str, **arguments: Any) -> AccessToken:
        """As ``azure.core.credentials.TokenCredential.get_token``."""
        from azure.core.exceptions import ClientAuthenticationError

        try:
            return self._inner.get_token(*scopes, **arguments)  # type: ignore[no-any-return]
        except ClientAuthenticationError as problem:
            raise AccessDenied(self._connection_id, first_line(problem)) from None

    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """As ``azure.core.credentials.SupportsTokenInfo.get_token_info``."""
        from azure.core.exceptions import ClientAuthenticationError

        try:
            return self._inner.get_token_info(*scopes, options=options)  # type: ignore[no-any-return]
        except ClientAuthenticationError as problem:
            raise AccessDenied(self._connection_id, first_line(problem)) from None

    def close(self) -> None:
        """Release the credential's connections."""
        self._inner.close()

    def __enter__(self) -> NamedCredential:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class NamedAsyncCredential:
    """As `NamedCredential`, for asyncio."""

    def __init__(self, inner: Any, connection_id: str) -> None:
        self._inner = inner
        self._connection_id = connection_id

    async def get_token(self, *scopes: str, **arguments: Any) -> AccessToken:
        """As ``azure.core.credentials_async.AsyncTokenCredential.get_token``."""
        from azure.core.exceptions import ClientAuthenticationError

        try:
            return await self._inner.get_token(*scopes, **arguments)  # type: ignore[no-any-return]
        except ClientAuthenticationError as problem:
            raise AccessDenied(self._connection_id, first_line(problem)) from None

    async def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """As ``azure.core.credentials_async.AsyncSupportsTokenInfo.get_token_info``."""
        from azure.core.exceptions import ClientAuthenticationError

        try:
            return await self._inner.get_token_info(*scopes, options=options)  # type: ignore[no-any-return]
        except ClientAuthenticationError as problem:
            raise AccessDenied(self._connection_id, first_line(problem)) from None

    async def close(self) -> None:
        """Release the credential's connections."""
        await self._inner.close()

    async def __aenter__(self) -> NamedAsyncCredential:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class AsyncRestClient:
    """azure-core's pipeline for asyncio, and the credential that only it uses."""

    def __init__(self, client: Any, credential: Any) -> None:
        self._client = client
        self._credential = credential

    async def send(self, request: Any) -> Any:
        """The answer to an ``azure.core.rest.HttpRequest``, read to its end, whatever its status."""
        async with await self._client.send_request(request) as response:
            await response.read()
            return response

    async def close(self) -> None:
        """Release the connections of both."""
        await self._client.close()
        await self._credential.close()


def async_transport(ca_bundle: str) -> Any:
    """azure-core's transport for asyncio with one TLS context for all its requests.

    Given a CA bundle as `connection_verify`, azure-core makes a context a request: aiohttp then never uses a
    connection again and holds 1.5 MB for each until its keep-alive ends (260 MB at ten requests a second, measured).
    """
    import ssl

    import aiohttp
    from azure.core.pipeline.transport import AioHttpTransport

    class Transport(AioHttpTransport):
        async def open(self) -> None:
            if getattr(self, "session", None) is None and not self._has_been_opened:
                context = ssl.create_default_context(cafile=ca_bundle)
                # The other arguments are those of the transport's own session.
                self.session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=context),
                    trust_env=True,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                )
            await super().open()

    return Transport()
