"""One client: the state machine of [MS-TDS] 3.3.5 (server details).

pre-login -> (TLS) -> log-in -> logged in <-> executing -> closed. The event loop reads and writes; one thread of the
connection's own runs its session, so that a slow query delays nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import ssl
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from localazure.sql.principals import Identity
from localazure.sql.results import RowsAffected, SqlError
from localazure.tds import login as wire
from localazure.tds import metadata
from localazure.tds.answers import (
    Answer,
    Cancelled,
    Statements,
    Transactions,
    make_error,
)
from localazure.tds.bulk import BulkTarget, make_table, parse_insert_bulk
from localazure.tds.channel import Channel, Disconnected
from localazure.tds.packets import (
    DEFAULT_PACKET_SIZE,
    ClientMessage,
    Packetizer,
    PacketStatus,
    PacketType,
    ProtocolError,
)
from localazure.tds.procedures import Procedures
from localazure.tds.requests import (
    TransactionRequest,
    parse_bulk_load,
    parse_rpc,
    parse_sql_batch,
    parse_transaction,
)
from localazure.tds.session import OpenDatabase, Session, SignIn
from localazure.tds.tokens import (
    DoneStatus,
    EnvChange,
    Token,
    make_collation_change,
    make_done,
    make_env_change,
    make_feature_ack,
    make_fedauth_info,
    make_login_ack,
    make_message,
)

log = logging.getLogger(__name__)

LANGUAGE: Final = "us_english"
SERVICE_PRINCIPAL_NAME: Final = "https://database.windows.net/"


CANCEL_AGAIN_SECONDS: Final = 0.25
_ONDEMAND: Final = "-ondemand"


@dataclass(frozen=True)
class Limits:
    """What one client may cost. Bytes and seconds."""

    message_before_login: int = 128 << 10
    message: int = 256 << 20
    login_seconds: float = 30.0
    connections: int = 512


@dataclass(frozen=True)
class Service:
    """What every connection shares: who may come in, and to which engine.

    login, password: the administrator's; sign_in: everybody else's, in a thread because it takes its time.
    verify_token: access token -> who; raises an exception whose text may be shown when the token is no good.
    open_session: of the dedicated pool; serverless: of the other one, which has databases to choose from.
    tls: for TDS 7.x (at most TLS 1.2, whose handshake ends where [MS-TDS] expects it); strict_tls: for TDS 8.0.
    """

    database: str
    login: str
    password: str
    sts_url: str
    tls: ssl.SSLContext
    strict_tls: ssl.SSLContext
    verify_token: Callable[[str], Identity]
    open_session: OpenDatabase
    limits: Limits = Limits()
    serverless: OpenDatabase | None = None
    sign_in: SignIn | None = None

    def __repr__(self) -> str:
        return f"Service(database={self.database!r})"


class LoginRefused(Exception):
    """The client may not come in. Carries the tokens that tell it why."""

    def __init__(self, number: int, message: str, *, state: int = 1, severity: int = 14) -> None:
        super().__init__(message)
        self.tokens = make_message(Token.ERROR, number, state, severity, message)


class Connection:
    """One client from its first byte to its last."""

    def __init__(self, service: Service, channel: Channel, peer: str, *, serverless: bool = False) -> None:
        self._service = service
        self._serverless = serverless
        self._channel = channel
        self._peer = peer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tds-{peer}")
        self._transactions = Transactions()
        self._procedures = Procedures(self._transactions)
        self._packets = Packetizer(DEFAULT_PACKET_SIZE)
        self._session: Session | None = None
        self._login: wire.Login | None = None
        self._identity: Identity | None = None
        self._loop = asyncio.get_running_loop()
        self._bulk: BulkTarget | None = None
        self._running: Answer | None = None
        self._messages: asyncio.Queue[ClientMessage] = asyncio.Queue(1)
        self._handlers: dict[PacketType, Callable[[bytes, Answer], None]] = {
            PacketType.SQL_BATCH: self._answer_batch,
            PacketType.RPC: self._answer_rpc,
            PacketType.BULK_LOAD: self._answer_bulk,
            PacketType.TRANSACTION_MANAGER: self._answer_transaction,
        }

    async def serve(self) -> None:
        """Run until the client leaves or breaks the protocol. Never raises but for cancellation."""
        try:
            async with asyncio.timeout(self._service.limits.login_seconds):
                accepted = await self._log_in()
            if accepted:
                await self._serve_requests()
        except Disconnected:
            pass
        except TimeoutError:
            log.info(
                "%s: no log-in within %s s",
                self._peer,
                self._service.limits.login_seconds,
            )
        except (ProtocolError, ssl.SSLError) as error:
            log.info("%s: connection ended: %s", self._peer, error)
        except Exception:
            log.exception("%s: connection ended by a fault of the server", self._peer)
        finally:
            await self._end()

    async def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, _close_quietly, session)
        self._thread.shutdown(wait=False)
        await self._channel.close()

    # Log-in ---------------------------------------------------------------------------------------------------------

    async def _log_in(self) -> bool:
        """[MS-TDS] 3.3.5.1 to 3.3.5.4. True when the client is in; False when it was refused, and told."""
        limit = self._service.limits.message_before_login
        strict = await self._channel.starts_with_tls()
        if strict:
            await self._channel.start_tls(self._service.strict_tls, wrapped=False)
        message = await self._channel.read_message(limit=limit)
        if message.type is not PacketType.PRELOGIN:
            raise ProtocolError(f"{message.type.name} before PRELOGIN")
        prelogin = wire.parse_prelogin(message.payload)
        encryption = wire.Encryption.NOT_SUPPORTED if strict else wire.reply_encryption(prelogin.encryption)
        await self._send(wire.make_prelogin(encryption=encryption, fedauth=prelogin.fedauth))
        if not strict and encryption is not wire.Encryption.NOT_SUPPORTED:
            await self._channel.start_tls(self._service.tls, wrapped=True)
        message = await self._channel.read_message(limit=limit)
        if message.type is not PacketType.LOGIN7:
            raise ProtocolError(f"{message.type.name} instead of LOGIN7")
        if encryption is wire.Encryption.OFF:
            self._channel.stop_tls()
        login = wire.parse_login(message.payload)
        # <workspace>-ondemand.sql.azuresynapse.net is the serverless pool, <workspace>.sql... the dedicated one.
        self._serverless = self._serverless or _ONDEMAND in login.server.lower().partition(".")[0]
        try:
            self._identity = await self._authenticate(login)
            tokens = await self._open(login, strict=strict)
        except LoginRefused as refused:
            log.info("%s: log-in refused: %r", self._peer, str(refused))  # names are the client's: no raw line ends
            await self._send(refused.tokens + make_done(DoneStatus.ERROR))
            return False
        # The first packets of the answer still have the old size: ENVCHANGE counts from the next message on.
        await self._send(tokens)
        self._packets = Packetizer(login.packet_size, self._session.spid if self._session else 0)
        return True

    async def _authenticate(self, login: wire.Login) -> Identity:
        """Who logs in. Raises LoginRefused."""
        if login.fedauth is not None:
            token = login.fedauth.token
            if login.fedauth.library == wire.FedAuthLibrary.ADAL:
                token = await self._fetch_token()
            try:
                return self._service.verify_token(token)
            except Exception as error:
                log.info("%s: access token refused: %s", self._peer, error)
                raise LoginRefused(18456, "Login failed for user '<token-identified principal>'.") from None
        if login.integrated:
            raise LoginRefused(
                18452,
                "Login failed. Windows authentication is not supported: use a SQL login or an access token.",
            )
        name = hmac.compare_digest(login.user.lower().encode(), self._service.login.lower().encode())
        secret = hmac.compare_digest(login.password.encode(), self._service.password.encode())
        if name and secret:
            return Identity(login.user, administrator=True)
        found = None
        if self._service.sign_in is not None and not name:
            arguments = login.user, login.password, self._serverless
            found = await self._loop.run_in_executor(self._thread, self._service.sign_in, *arguments)
        if found is None:
            raise LoginRefused(18456, f"Login failed for user '{login.user}'.")
        return found

    async def _fetch_token(self) -> str:
        """[MS-TDS] 3.3.5.3: tell the client where tokens come from, and wait for the one it gets there."""
        await self._send(make_fedauth_info(self._service.sts_url, SERVICE_PRINCIPAL_NAME))
        message = await self._channel.read_message(limit=self._service.limits.message_before_login)
        if message.type is not PacketType.FEDAUTH_TOKEN:
            raise ProtocolError(f"{message.type.name} instead of a federated authentication token")
        return wire.parse_fedauth_token(message.payload)

    async def _open(self, login: wire.Login, *, strict: bool) -> bytes:
        """Open the session; the tokens that welcome the client. Raises LoginRefused."""
        self._check_database(login)
        self._login = login
        try:
            self._session = await asyncio.get_running_loop().run_in_executor(self._thread, self._new_session)
        except SqlError as error:
            raise LoginRefused(error.number, error.message, severity=error.severity) from None
        database = self._session.database
        tokens = make_env_change(EnvChange.DATABASE, database, "master")
        tokens += make_message(Token.INFO, 5701, 2, 0, f"Changed database context to '{database}'.")
        tokens += make_collation_change()
        tokens += make_env_change(EnvChange.LANGUAGE, LANGUAGE, "")
        tokens += make_message(Token.INFO, 5703, 1, 0, f"Changed language setting to {LANGUAGE}.")
        tokens += make_env_change(EnvChange.PACKET_SIZE, str(login.packet_size), str(DEFAULT_PACKET_SIZE))
        tokens += make_login_ack(wire.TDS_8_0 if strict else wire.TDS_7_4)
        acknowledged: list[tuple[int, bytes]] = []
        if login.fedauth is not None:
            acknowledged.append((wire.Feature.FEDAUTH, login.fedauth.nonce))
        if wire.Feature.UTF8_SUPPORT in login.features:
            acknowledged.append((wire.Feature.UTF8_SUPPORT, b"\1"))
        if acknowledged:
            tokens += make_feature_ack(acknowledged)
        return tokens + make_done(DoneStatus.FINAL)

    def _check_database(self, login: wire.Login) -> None:
        """The serverless pool knows its own databases; the dedicated one has one."""
        database = self._service.database
        if self._serverless:
            if self._service.serverless is None:
                raise LoginRefused(40532, f'Cannot open server "{login.server}" requested by the login.')
            return
        if login.database and login.database.lower() not in {database.lower(), "master"}:
            raise LoginRefused(
                4060,
                f'Cannot open database "{login.database}" requested by the login. The login failed. '
                f'This server has one database, "{database}".',
                severity=11,
            )

    def _new_session(self) -> Session:
        login, identity = self._login, self._identity
        assert login is not None and identity is not None
        open_database = self._service.open_session
        if self._serverless and self._service.serverless is not None:
            open_database = self._service.serverless
        session = open_database(identity, login.application, login.host, login.database)
        session.on_disconnect = self._disconnect
        return session

    def _disconnect(self) -> None:
        """From any thread: the server ends this connection; the client finds it closed."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the connection with it
            self._loop.call_soon_threadsafe(self._channel.abort)

    # Requests -------------------------------------------------------------------------------------------------------

    async def _serve_requests(self) -> None:
        listener = asyncio.ensure_future(self._listen())
        try:
            while True:
                get = asyncio.ensure_future(self._messages.get())
                await asyncio.wait({get, listener}, return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    get.cancel()
                    listener.result()
                    return
                message = get.result()
                if message.type is PacketType.ATTENTION:
                    # It crossed the end of the answer on its way: [MS-TDS] 3.3.5.7 wants it acknowledged all the same.
                    await self._send(make_done(DoneStatus.ATTENTION))
                elif message.type in self._handlers:
                    await self._execute(message, listener)
                else:
                    raise ProtocolError(f"{message.type.name} is no request")
        finally:
            listener.cancel()
            await asyncio.wait({listener})

    async def _listen(self) -> None:
        """Read messages while requests run, so that ATTENTION and a client's leaving are seen at once."""
        limit = self._service.limits.message
        while True:
            message = await self._channel.read_message(limit=limit)
            running = self._running
            if message.type is PacketType.ATTENTION and running is not None:
                running.cancelled.set()
                self._cancel()
            else:
                await self._messages.put(message)

    async def _execute(self, message: ClientMessage, listener: asyncio.Future[None]) -> None:
        """Answer one request."""
        loop = asyncio.get_running_loop()
        pipe = _Pipe(loop, self._send_part)
        answer = self._running = Answer(pipe.send)
        work = loop.run_in_executor(self._thread, self._answer, message, answer, pipe)
        try:
            while not work.done():
                await asyncio.wait({work, listener}, timeout=CANCEL_AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if listener.done() and not work.done():
                    listener.result()
                if answer.cancelled.is_set() and not work.done():
                    # Again: the statement may only have been about to start when ATTENTION came.
                    self._cancel()
            work.result()
        except BaseException:
            # The client is gone, or the server stops: what runs has to end before its session is closed.
            answer.cancelled.set()
            self._cancel()
            self._channel.abort()
            await asyncio.wait({work})
            raise
        finally:
            self._running = None
        rest = answer.take()
        if answer.cancelled.is_set():
            rest += make_done(DoneStatus.ATTENTION)
        await self._channel.send(self._packets.finish(rest))

    def _cancel(self) -> None:
        if self._session is not None:
            try:
                self._session.cancel()
            except Exception:
                log.exception("%s: cancelling failed", self._peer)

    async def _send(self, payload: bytes) -> None:
        await self._channel.send(self._packets.finish(payload))

    async def _send_part(self, payload: bytes) -> None:
        await self._channel.send(self._packets.feed(payload))

    # In the connection's thread --------------------------------------------------------------------------------------

    def _answer(self, message: ClientMessage, answer: Answer, pipe: _Pipe) -> None:
        """Write the whole answer to a request but for the packets' end. Faults become ERROR tokens."""
        try:
            self._reset(message.status, answer)
            self._handlers[message.type](message.payload, answer)
        except Cancelled:
            pass
        except Disconnected:
            answer.cancelled.set()
        except Exception as error:
            with contextlib.suppress(Cancelled):  # the client is gone: nobody waits for the error
                answer.write(make_error(error) + make_done(DoneStatus.ERROR))
        finally:
            pipe.wait()

    def _reset(self, status: PacketStatus, answer: Answer) -> None:
        """[MS-TDS] 2.2.3.1.2 RESETCONNECTION: a pool hands the connection to its next user, as good as new."""
        keep = bool(status & PacketStatus.RESET_CONNECTION_SKIP_TRANSACTION)
        if not (keep or status & PacketStatus.RESET_CONNECTION):
            return
        self._procedures.reset()
        self._bulk = None
        session = self._session
        assert session is not None
        if not (keep and session.transaction_count):
            if self._transactions.active:
                answer.write(self._transactions.change("rollback"))
            session.close()
            self._session = self._new_session()
        answer.write(make_env_change(EnvChange.RESET_ACKNOWLEDGED, b""))

    def _answer_batch(self, payload: bytes, answer: Answer) -> None:
        session = self._session
        assert session is not None
        batch = parse_sql_batch(payload)
        statements = Statements(answer, self._transactions, rpc=False)
        try:
            if (target := parse_insert_bulk(batch)) is not None:
                self._bulk = target
            elif not self._serverless and (database := metadata.parse_use(batch)) is not None:
                answer.write(metadata.use(database, session.database))
            else:
                statements.write_all(metadata.run(session, batch))
        except SqlError as error:
            statements.fail(error)
        statements.finish_batch()

    def _answer_rpc(self, payload: bytes, answer: Answer) -> None:
        assert self._session is not None
        # All calls are parsed before the first one runs: a malformed message does nothing.
        self._procedures.run(self._session, list(parse_rpc(payload)), answer)

    def _answer_bulk(self, payload: bytes, answer: Answer) -> None:
        target, self._bulk = self._bulk, None
        statements = Statements(answer, self._transactions, rpc=False)
        try:
            if target is None:
                raise SqlError(4002, "Rows of a bulk load came without INSERT BULK before them.")
            table = make_table(target, parse_bulk_load(payload))
            assert self._session is not None
            count = self._session.bulk_load(target.table, list(target.columns), table) if table.num_rows else 0
            statements.write_all([RowsAffected(count)])
        except SqlError as error:
            statements.fail(error)
        statements.finish_batch()

    def _answer_transaction(self, payload: bytes, answer: Answer) -> None:
        """[MS-TDS] 2.2.6.9; distributed transactions and savepoints are refused by name."""
        session = self._session
        assert session is not None
        request = parse_transaction(payload)
        statements = Statements(answer, self._transactions, rpc=False)
        try:
            match request.kind:
                case TransactionRequest.BEGIN:
                    session.begin()
                    answer.write(self._transactions.change("begin"))
                case TransactionRequest.COMMIT | TransactionRequest.ROLLBACK:
                    commit = request.kind is TransactionRequest.COMMIT
                    (session.commit if commit else session.rollback)()
                    answer.write(self._transactions.change("commit" if commit else "rollback"))
                    if request.begin_next:
                        session.begin()
                        answer.write(self._transactions.change("begin"))
                case _:
                    raise SqlError(
                        40510,
                        f"Transaction request {request.kind.name} is not supported (savepoints, distributed ones).",
                    )
        except SqlError as error:
            statements.fail(error)
        statements.finish_batch()


class _Pipe:
    """From the connection's thread to the loop: one piece on its way, so that encoding and sending overlap."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        write: Callable[[bytes], Coroutine[Any, Any, None]],
    ) -> None:
        self._loop = loop
        self._write = write
        self._flying: Future[None] | None = None

    def send(self, data: bytes) -> None:
        """Hand over a piece once the one before it is written. Raises Disconnected."""
        self.wait()
        self._flying = asyncio.run_coroutine_threadsafe(self._write(data), self._loop)

    def wait(self) -> None:
        """Until everything handed over is written."""
        flying, self._flying = self._flying, None
        if flying is not None:
            flying.result()


def _close_quietly(session: Session) -> None:
    try:
        session.close()
    except Exception:
        log.exception("closing a session failed")
