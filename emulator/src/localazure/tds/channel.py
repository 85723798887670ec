"""Bytes between a client and its connection: packets in, packets out, TLS in three shapes.

[MS-TDS] 3.2.5.1 and 2.2.6.5: in TDS 7.x the TLS handshake travels inside PRELOGIN packets; afterwards TLS records carry
the packets (Encrypt=yes), or only LOGIN7 (Encrypt=no). In TDS 8.0 (Encrypt=strict) TLS comes first, as for HTTPS.

`ssl.SSLObject` over memory buffers does all three with one code path, on the loop's thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

from localazure.tds.packets import (
    HEADER_SIZE,
    ClientMessage,
    PacketStatus,
    PacketType,
    ProtocolError,
    make_packet,
    parse_header,
)

_CHUNK: Final = 1 << 16
_TLS_HANDSHAKE_RECORD: Final = 0x16


class Disconnected(Exception):
    """The client went away, at a packet boundary or in the middle of anything."""


class Channel:
    """One client's socket. Not thread-safe: everything runs on the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._plain = bytearray()
        self._lock = asyncio.Lock()

    @property
    def encrypted(self) -> bool:
        """Whether TLS is on now."""
        return self._tls is not None

    async def starts_with_tls(self) -> bool:
        """Whether the client begins with a TLS record (TDS 8.0) and not with a packet."""
        if not self._plain:
            self._plain += await self._receive()
        return self._plain[0] == _TLS_HANDSHAKE_RECORD

    async def start_tls(self, context: ssl.SSLContext, *, wrapped: bool) -> None:
        """The server's side of the handshake; ``wrapped`` puts it inside PRELOGIN packets.

        Raises Disconnected, ProtocolError (no valid packet) or ssl.SSLError (no agreement).
        """
        tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        if not wrapped:
            # What starts_with_tls() has read belongs to the handshake.
            self._incoming.write(bytes(self._plain))
            self._plain.clear()
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._send_handshake(wrapped=wrapped)
                if wrapped:
                    message = await self.read_message(limit=_CHUNK)
                    if message.type is not PacketType.PRELOGIN:
                        raise ProtocolError(f"{message.type.name} in the middle of a TLS handshake") from None
                    self._incoming.write(message.payload)
                else:
                    self._incoming.write(await self._receive())
        await self._send_handshake(wrapped=wrapped)
        self._tls = tls

    async def _send_handshake(self, *, wrapped: bool) -> None:
        data = self._outgoing.read()
        if not data:
            return
        if not wrapped:
            self._writer.write(data)
        else:
            for start in range(0, len(data), 4000):
                piece = data[start : start + 4000]
                last = start + 4000 >= len(data)
                self._writer.write(make_packet(PacketType.PRELOGIN, piece, last=last))
        await self._drain()

    def stop_tls(self) -> None:
        """Back to plain packets: the log-in was all that the client wanted encrypted."""
        self._tls = None

    async def _receive(self) -> bytes:
        try:
            data = await self._reader.read(_CHUNK)
        except (ConnectionError, OSError) as error:
            raise Disconnected(str(error)) from None
        if not data:
            raise Disconnected("the client closed the connection")
        return data

    async def _fill(self) -> None:
        """More plain bytes. Never returns without progress: a TLS stream that ended raises."""
        tls = self._tls
        if tls is None:
            self._plain += await self._receive()
            return
        while True:
            try:
                data = tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                self._incoming.write(await self._receive())
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                raise Disconnected(f"TLS failed: {error.reason}") from None
            if not data:
                # close_notify. It reads as an endless supply of nothing: a loop that went on would never end.
                raise Disconnected("the client ended TLS")
            self._plain += data
            return

    async def _take(self, count: int) -> bytes:
        while len(self._plain) < count:
            await self._fill()
        data = bytes(self._plain[:count])
        del self._plain[:count]
        return data

    async def read_packet(self) -> tuple[PacketType, PacketStatus, bytes]:
        """The next packet. Raises Disconnected or ProtocolError."""
        header = parse_header(await self._take(HEADER_SIZE))
        return header.type, header.status, await self._take(header.length - HEADER_SIZE)

    async def read_message(self, *, limit: int) -> ClientMessage:
        """The next whole message of at most ``limit`` bytes.

        A message that the client takes back ([MS-TDS] 2.2.3.1.2, IGNORE) is skipped. Raises ProtocolError when packets
        of two messages are mixed or the message is too large.
        """
        while True:
            kind, status, payload = await self.read_packet()
            first_status = status
            parts, size = [payload], len(payload)
            while not status & PacketStatus.END_OF_MESSAGE:
                if size > limit:
                    raise ProtocolError(f"{kind.name} is larger than {limit} bytes")
                following, status, payload = await self.read_packet()
                if following is not kind:
                    raise ProtocolError(f"{following.name} inside a {kind.name} message")
                parts.append(payload)
                size += len(payload)
            if size > limit:
                raise ProtocolError(f"{kind.name} is larger than {limit} bytes")
            if status & PacketStatus.IGNORE and kind is not PacketType.ATTENTION:
                continue
            return ClientMessage(kind, parts[0] if len(parts) == 1 else b"".join(parts), first_status)

    async def send(self, data: bytes) -> None:
        """Write packets and wait until the socket takes them. Raises Disconnected."""
        if not data:
            return
        async with self._lock:
            tls = self._tls
            if tls is None:
                self._writer.write(data)
            else:
                view = memoryview(data)
                while view:
                    view = view[tls.write(view) :]
                self._writer.write(self._outgoing.read())
            await self._drain()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except (ConnectionError, OSError) as error:
            raise Disconnected(str(error)) from None

    def abort(self) -> None:
        """Drop the socket at once: nothing that is still to be written matters."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Flush what is written and close the socket; a client that is gone already is no error."""
        try:
            if self._tls is not None:
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._writer.write(self._outgoing.read())
            self._writer.close()
            await asyncio.wait_for(self._writer.wait_closed(), 2)
        except (ConnectionError, OSError, TimeoutError):
            pass
