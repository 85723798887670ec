"""The server by raw sockets: log-in, requests, errors, cancelling, and what a broken or hostile client does."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import time

import pytest
from fuzzer import Fuzzer
from raw_client import COLLATION, HEADERS, Answer, RawClient, call, integer, login7, nvarchar, packet, parse, prelogin
from standin import StandIn

ENCRYPTION = {"off": 0, "on": 1, "not supported": 2, "required": 3}


@pytest.fixture
def client(running):
    client = running.client()
    yield client
    client.close()


@pytest.mark.parametrize("encryption", ENCRYPTION.values(), ids=ENCRYPTION)
def test_every_encryption_setting_logs_in(running, encryption: int) -> None:
    client = running.client(encryption=encryption)
    assert client.batch("SELECT 1 AS a").rows == [[1]]
    client.close()


def test_tds_8_starts_with_tls(running) -> None:
    context = ssl.create_default_context(cafile=str(running.settings.ca_certificate))
    context.set_alpn_protocols(["tds/8.0"])
    client = RawClient(running.port)
    client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
    assert client.socket.selected_alpn_protocol() == "tds/8.0"
    client.log_in(running.service.login, running.service.password, "azflow")
    assert client.batch("SELECT 1 AS a").rows == [[1]]
    client.close()


def test_log_in_tells_database_collation_and_packet_size(running) -> None:
    client = RawClient(running.port)
    answer = client.log_in(running.service.login, running.service.password, "azflow", size=8000)
    kinds = dict(answer.changes)
    assert kinds[1].startswith(b"\x06" + "azflow".encode("utf-16-le"))
    assert COLLATION in kinds[7]
    assert kinds[4].startswith(b"\x04" + "8000".encode("utf-16-le"))
    assert [number for number, _ in answer.infos] == [5701, 5703]
    client.close()


@pytest.mark.parametrize(
    ("options", "number"),
    [({"password": "wrong"}, 18456), ({"user": "sa"}, 18456), ({"user": ""}, 18456), ({"database": "other"}, 4060)],
)
def test_a_refused_log_in_is_told_and_closed(running, options: dict[str, str], number: int) -> None:
    client = RawClient(running.port)
    given = {"user": running.service.login, "password": running.service.password, "database": "azflow"}
    answer = client.log_in(**(given | options))
    assert [n for n, _ in answer.errors] == [number]
    assert "wrong" not in answer.errors[0][1]
    assert 0xAD not in answer.tokens, "no LOGINACK"
    # A client that goes on as if it were in gets nothing.
    with pytest.raises((ConnectionError, OSError)):
        client.batch("SELECT 1")


def _token_feature(token: str) -> bytes:
    data = token.encode("utf-16-le")
    body = bytes((0x03,)) + struct.pack("<I", len(data)) + data
    return struct.pack("<BI", 2, len(body)) + body


def test_an_access_token_logs_in(running) -> None:
    token = running.tokens.issue("someone", "https://database.windows.net/")
    client = RawClient(running.port, ca=running.settings.ca_certificate)
    answer = client.log_in("", "", "azflow", encryption=1, features=_token_feature(token))
    assert answer.errors == []
    assert answer.features == [2]
    assert client.batch("SELECT 1 AS a").rows == [[1]]
    client.close()


def test_bad_tokens_are_refused(running) -> None:
    good = running.tokens.issue("someone", "https://database.windows.net/")
    other = running.tokens.issue("someone", "https://management.azure.com")
    expired = running.tokens.issue("someone", "https://database.windows.net/", lifetime_seconds=-100)
    for token in (other, expired, good[:-8] + "AAAAAAAA", "", "a.b.c"):
        client = RawClient(running.port)
        answer = client.log_in("", "", "azflow", features=_token_feature(token))
        assert [n for n, _ in answer.errors] == [18456]
        assert client.closed()


def test_a_service_principal_is_told_where_tokens_come_from(running) -> None:
    client = RawClient(running.port)
    client.pre_log_in(2, fedauth=True)
    feature = struct.pack("<BI", 2, 2) + b"\x05\x01"
    client.message(0x10, login7("", "", "azflow", features=feature))
    assert parse(client.receive()).fedauth == ["https://localhost:1/tenant", "https://database.windows.net/"]
    token = running.tokens.issue("someone", "https://database.windows.net").encode("utf-16-le")
    client.message(0x08, struct.pack("<II", len(token) + 4, len(token)) + token)
    assert parse(client.receive()).features == [2]
    assert client.batch("SELECT 1 AS a").rows == [[1]]
    client.close()


# Requests ------------------------------------------------------------------------------------------------------------

MORE, ERROR, IN_TRANSACTION, COUNT, ATTENTION, RPC_IN_BATCH = 1, 2, 4, 16, 32, 128
DONE, DONEPROC, DONEINPROC = 0xFD, 0xFE, 0xFF


def test_a_batch_of_several_results(client: RawClient) -> None:
    answer = client.batch("SELECT 1 AS a; PRINT 'hello'; SELECT 'x' AS b, NULL::int AS c")
    assert answer.columns == [["a"], ["b", "c"]]
    assert answer.rows == [[1], ["x", None]]
    assert answer.infos == [(0, "hello")]
    assert answer.done == [(DONE, MORE | COUNT, 1), (DONE, COUNT, 1)]


def test_an_error_ends_the_batch_and_not_the_connection(client: RawClient) -> None:
    answer = client.batch("SELECT 1 AS a; SELECT * FROM nowhere")
    assert answer.rows == [[1]]
    assert answer.errors == [(208, "Invalid object name 'nowhere'.")]
    assert answer.done == [(DONE, MORE | COUNT, 1), (DONE, ERROR, 0)]
    assert client.batch("SELECT 2 AS a").rows == [[2]]


def test_use_of_the_own_database_alone(client: RawClient) -> None:
    assert client.batch("USE [azflow]").changes[0][0] == 1
    assert client.batch("use other").errors[0][0] == 40508


def test_executesql_with_declared_parameters(client: RawClient) -> None:
    payload = call(
        10, nvarchar("SELECT @b AS b, @a AS a"), nvarchar("@a int, @b nvarchar(20)"), integer(7), nvarchar("x")
    )
    answer = client.rpc(payload)
    assert answer.rows == [["x", 7]]
    assert answer.done == [(DONEINPROC, MORE | COUNT, 1), (DONEPROC, 0, 0)]
    named = call(
        "sp_executesql", nvarchar("SELECT @b AS b"), nvarchar("@a int, @b int"), integer(1, "@b"), integer(2, "@a")
    )
    assert client.rpc(named).rows == [[1]]


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (call(10, nvarchar("SELECT @a"), nvarchar("@a int")), 8178),
        (call(10, nvarchar("SELECT @a"), nvarchar("@a int"), integer(1), integer(2)), 8144),
        (call(10, nvarchar("SELECT @a"), nvarchar("@a int"), integer(1, "@z")), 8145),
        (call(10, nvarchar("SELECT @a"), nvarchar("@a geography"), integer(1)), 8009),
        (call(10, integer(1)), 214),
        (call(12, integer(99)), 8179),
        (call(15, integer(99)), 8179),
        (call(2, integer(None)), 40510),
        (call("sp_cursoropen"), 40510),
    ],
)
def test_calls_that_are_refused(client: RawClient, payload: bytes, number: int) -> None:
    answer = client.rpc(payload)
    assert [n for n, _ in answer.errors] == [number]
    assert answer.done[-1][:2] == (DONEPROC, ERROR)
    assert client.batch("SELECT 1 AS a").rows == [[1]]


def test_prepare_execute_unprepare(client: RawClient) -> None:
    prepared = client.rpc(
        call(11, integer(None, output=True), nvarchar("@a int"), nvarchar("SELECT @a AS a"), integer(1))
    )
    assert prepared.columns == [["a"]]
    (handle,) = prepared.values
    assert isinstance(handle, int)
    assert client.rpc(call(12, integer(handle), integer(5))).rows == [[5]]
    assert client.rpc(call(15, integer(handle))).errors == []
    assert client.rpc(call(12, integer(handle), integer(5))).errors[0][0] == 8179


def test_prepexec_answers_rows_and_handle(client: RawClient) -> None:
    answer = client.rpc(
        call(13, integer(None, output=True), nvarchar("@a int"), nvarchar("SELECT @a AS a"), integer(3))
    )
    assert answer.rows == [[3]]
    (handle,) = answer.values
    assert isinstance(handle, int)
    assert client.rpc(call(12, integer(handle), integer(4))).rows == [[4]]


def test_many_executes_in_one_message(client: RawClient) -> None:
    client.batch("CREATE TABLE many_executes (i int)")
    handle = client.rpc(
        call(11, integer(None, output=True), nvarchar("@a int"), nvarchar("INSERT INTO many_executes VALUES (@a)"))
    ).values[0]
    assert isinstance(handle, int)
    answer = client.rpc(b"\xff".join(call(12, integer(handle), integer(i)) for i in range(5)))
    final = [(status, count) for token, status, count in answer.done if token == DONEPROC]
    assert final == [(MORE | RPC_IN_BATCH, 0)] * 4 + [(0, 0)]
    assert client.batch("SELECT COUNT(*), MAX(i) FROM many_executes").rows == [[5, 4]]


def test_prepared_handles_are_capped(client: RawClient) -> None:
    one = call(11, integer(None, output=True), nvarchar(""), nvarchar("PRINT 'x'"))
    answer = client.rpc(b"\xff".join([one] * 2001))
    assert [n for n, _ in answer.errors] == [10928]
    assert len(answer.values) == 2000


def test_undeclared_parameters_have_the_columns_types(client: RawClient) -> None:
    client.batch("CREATE TABLE undeclared (i int, b varbinary(10), d date)")
    answer = client.rpc(
        call("sp_describe_undeclared_parameters", nvarchar("INSERT INTO undeclared (d, b) VALUES (@P1, @P2)"))
    )
    assert [row[1:4] for row in answer.rows] == [["@P1", 40, "date"], ["@P2", 165, "varbinary(max)"]]


def test_transaction_requests(client: RawClient) -> None:
    client.batch("CREATE TABLE in_transaction (i int)")

    def request(kind: int, rest: bytes) -> Answer:
        client.message(0x0E, HEADERS + struct.pack("<H", kind) + rest)
        return parse(client.receive())

    begun = request(5, b"\0\0")
    assert [kind for kind, _ in begun.changes] == [8]
    assert begun.done == [(DONE, IN_TRANSACTION, 0)]
    client.batch("INSERT INTO in_transaction VALUES (1)")
    assert [kind for kind, _ in request(8, b"\0\0").changes] == [10]
    assert client.batch("SELECT COUNT(*) FROM in_transaction").rows == [[0]]
    request(5, b"\0\0")
    client.batch("INSERT INTO in_transaction VALUES (1)")
    # Commit, and begin the next one at once.
    assert [kind for kind, _ in request(7, b"\0\x01\0\0").changes] == [9, 8]
    assert [kind for kind, _ in request(8, b"\0\0").changes] == [10]
    assert client.batch("SELECT COUNT(*) FROM in_transaction").rows == [[1]]
    assert request(9, b"\0").errors[0][0] == 40510


def test_reset_rolls_back_and_forgets(client: RawClient) -> None:
    client.batch("CREATE TABLE reset_me (i int)")
    handle = client.rpc(call(11, integer(None, output=True), nvarchar(""), nvarchar("SELECT 1 AS a"))).values[0]
    assert isinstance(handle, int)
    assert client.batch("BEGIN TRAN; INSERT INTO reset_me VALUES (1)").changes[0][0] == 8
    answer = client.batch("SELECT COUNT(*) FROM reset_me", status=0x08)
    assert [kind for kind, _ in answer.changes] == [10, 18]
    assert answer.rows == [[0]]
    assert client.rpc(call(12, integer(handle))).errors[0][0] == 8179


def _bulk(rows: list[tuple[int, str | None]]) -> bytes:
    data = struct.pack("<BH", 0x81, 2)
    data += struct.pack("<IH", 0, 1) + b"\x26\x04" + b"\x01" + "i".encode("utf-16-le")
    data += struct.pack("<IH", 0, 1) + b"\xe7\x28\x00" + COLLATION + b"\x01" + "s".encode("utf-16-le")
    for number, value in rows:
        body = b"\xff\xff" if value is None else struct.pack("<H", len(value) * 2) + value.encode("utf-16-le")
        data += b"\xd1" + struct.pack("<Bi", 4, number) + body
    return data + struct.pack("<BHHQ", 0xFD, 0, 0, 0)


def test_bulk_load(client: RawClient) -> None:
    client.batch("CREATE TABLE bulk_loaded (i int, s varchar)")
    begun = client.batch("INSERT BULK [bulk_loaded] ([i] int, [s] nvarchar(20) COLLATE x) WITH (TABLOCK)")
    assert begun.errors == []
    client.message(0x07, _bulk([(1, "one"), (2, None), (3, "\u00fc")]))
    answer = parse(client.receive())
    assert answer.done == [(DONE, COUNT, 3)]
    assert client.batch("SELECT * FROM bulk_loaded ORDER BY i").rows == [[1, "one"], [2, None], [3, "\u00fc"]]
    client.message(0x07, _bulk([(1, "x")]))
    assert parse(client.receive()).errors[0][0] == 4002


def test_a_large_result_arrives_whole(client: RawClient) -> None:
    answer = client.batch("SELECT i, 'row ' || i AS s FROM range(100000) t(i)")
    assert len(answer.rows) == 100_000
    assert answer.rows[99_999] == [99_999, "row 99999"]
    assert answer.done == [(DONE, COUNT, 100_000)]


# Cancelling ----------------------------------------------------------------------------------------------------------


def test_attention_ends_a_running_statement(client: RawClient) -> None:
    client.start("WAITFOR DELAY '3600'")
    time.sleep(0.2)
    client.attention()
    answer = parse(client.receive())
    assert answer.done[-1][:2] == (DONE, ATTENTION)
    assert client.batch("SELECT 1 AS a").rows == [[1]]


def test_attention_in_the_middle_of_a_result(client: RawClient) -> None:
    client.start("SELECT i, 'some text to fill packets ' || i AS s FROM range(2000000) t(i)")
    for _ in range(20):
        client.packet()
    client.attention()
    # The rest of what was on its way (it may end as a message of its own), then the acknowledgement, which two packets
    # may share; the packets stay in step. [MS-TDS] 3.2.5.8: a client reads on until the DONE that acknowledges.
    received, acknowledgement = 20, struct.pack("<BHHQ", 0xFD, ATTENTION, 0, 0)
    is_last, end = False, b""
    while not (is_last and end.endswith(acknowledgement)):
        is_last, payload = client.packet()
        end = (end + payload)[-len(acknowledgement) :]
        received += 1
        assert received < 20_000, "the whole result came"
    assert client.batch("SELECT 1 AS a").rows == [[1]]


def test_attention_that_comes_too_late_is_acknowledged(client: RawClient) -> None:
    assert client.batch("SELECT 1 AS a").rows == [[1]]
    client.attention()
    assert parse(client.receive()).done == [(DONE, ATTENTION, 0)]
    assert client.batch("SELECT 2 AS a").rows == [[2]]


def test_a_client_that_leaves_ends_its_query(running) -> None:
    client = running.client()
    client.start("WAITFOR DELAY '30'")
    time.sleep(0.2)
    before = len(running.server._clients)
    client.close()
    deadline = time.monotonic() + 5
    while len(running.server._clients) >= before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(running.server._clients) < before


# Broken and hostile clients -------------------------------------------------------------------------------------------


def _harmless(running) -> None:
    client = running.client()
    assert client.batch("SELECT 1 AS a").rows == [[1]]
    client.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        packet(0x12, b""),
        packet(0x12, b"\x01\xff\xff\xff\xff\xff"),
        packet(0x12, b"\x00" * 50),
        packet(0x10, b"too early"),
        packet(0x01, b""),
        struct.pack(">BBHHBB", 0x12, 1, 3, 0, 1, 0),
        b"\x16\x03\x01\x00\x05hello",
        packet(0x12, prelogin(2)) + packet(0x10, b"\xff" * 200),
        packet(0x12, prelogin(2)) + packet(0x10, login7("u", "p", "d")[:60]),
        packet(0x12, prelogin(1)) + packet(0x12, b"not TLS"),
        packet(0x12, prelogin(2), status=0) * 12000,
    ],
    ids=range(12),
)
def test_rubbish_before_log_in_closes_only_itself(running, data: bytes) -> None:
    client = RawClient(running.port)
    with contextlib.suppress(ConnectionError):
        client.send(data)
    assert client.closed()
    _harmless(running)


def test_silence_is_closed_after_the_log_in_time(running) -> None:
    assert RawClient(running.port).closed()


@pytest.mark.parametrize("kind", [0x01, 0x03, 0x07, 0x0E])
def test_random_requests_answer_an_error_or_close(running, kind: int) -> None:
    generator = random.Random(kind)
    for round_ in range(40):
        client = running.client()
        payload = generator.randbytes(generator.randrange(0, 300))
        if round_ % 2:
            payload = HEADERS + payload
        client.message(kind, payload)
        try:
            answer = parse(client.receive())
            assert answer.done
        except ConnectionError:
            pass
        client.close()
    _harmless(running)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_few_hundred_broken_messages_harm_nobody(running, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """For an hour of them: benchmarks/tds_fuzz.py."""
    fuzzer = Fuzzer(running.port, running.service.login, running.service.password, "azflow", seed)
    for _ in range(5):
        for _ in range(40):
            fuzzer.round()
        fuzzer.check()
    fuzzer.close()
    assert set(fuzzer.outcomes) <= {"closed", "error", "answered", "waits for more", "pre-login answer"}
    faults = [record for record in caplog.records if record.levelname == "ERROR"]
    assert not faults, faults[0].getMessage()


def test_a_cut_rpc_says_what_is_wrong_and_the_connection_goes_on(client: RawClient) -> None:
    answer = client.rpc(call(10, nvarchar("SELECT 1")[:-3]))
    assert answer.errors[0][0] == 8009
    assert client.batch("SELECT 1 AS a").rows == [[1]]


def test_a_date_that_no_calendar_has_is_the_clients_fault(client: RawClient) -> None:
    """An int parameter's bytes said to be a datetime far beyond 9999: found by the fuzzer."""
    parameter = b"\0\0\x6f\x08\x08" + struct.pack("<iI", 2**31 - 1, 0)
    answer = client.rpc(call(10, nvarchar("SELECT @a"), nvarchar("@a datetime"), parameter))
    assert answer.errors[0][0] == 8009
    assert client.batch("SELECT 1 AS a").rows == [[1]]


def test_a_message_beyond_the_limit_ends_the_connection(running) -> None:
    client = running.client()
    with contextlib.suppress(ConnectionError):
        client.message(0x01, HEADERS + b" \0" * (3 << 20), size=32000)
    assert client.closed()
    _harmless(running)


def test_close_notify_ends_the_connection_and_does_not_spin(running) -> None:
    client = running.client(encryption=1)
    assert client.tls is not None
    before = len(running.server._clients)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.socket.sendall(client._out.read())
    used = time.process_time()
    deadline = time.monotonic() + 3
    while len(running.server._clients) >= before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(running.server._clients) < before
    assert time.process_time() - used < 1.0


def test_connections_are_capped(running) -> None:
    held = [running.client() for _ in range(running.service.limits.connections - len(running.server._clients))]
    late = socket.create_connection(("127.0.0.1", running.port), 5)
    late.settimeout(5)
    try:
        late.sendall(packet(0x12, prelogin(2)))
        assert late.recv(100) == b""
    except ConnectionError:
        pass
    late.close()
    for client in held:
        client.close()
    deadline = time.monotonic() + 5
    while len(running.server._clients) > 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    _harmless(running)


def test_the_listener_is_on_the_loopback_interface(running) -> None:
    assert running.server._servers[0].sockets[0].getsockname()[0] == "127.0.0.1"


# What drivers do besides ------------------------------------------------------------------------------------------


def _handle(client: RawClient, declared: str, statement: str) -> int:
    prepared = client.rpc(call(11, integer(None, output=True), nvarchar(declared), nvarchar(statement)))
    assert prepared.errors == []
    handle = prepared.values[0]
    assert isinstance(handle, int)
    return handle


def _executions(handle: int, rows: list[tuple[int | None, str | None]]) -> bytes:
    return b"\xff".join(call(12, integer(handle), integer(i), nvarchar(s)) for i, s in rows)


def test_executemany_of_an_insert_is_loaded_at_once(client: RawClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.batch("CREATE TABLE together (i int, s varchar)")
    loads: list[int] = []
    load = StandIn.bulk_load
    monkeypatch.setattr(StandIn, "bulk_load", lambda self, *a: loads.append(load(self, *a)) or loads[-1])
    handle = _handle(client, "@P1 int, @P2 nvarchar(10)", "INSERT INTO together (s, i) VALUES (@P1, @P2)")
    swapped = _handle(client, "@P1 int, @P2 nvarchar(10)", "INSERT INTO [together] ([i], s) VALUES (@P1,@P2);")
    rows: list[tuple[int | None, str | None]] = [(i, None if i == 3 else f"row {i}") for i in range(50)]
    answer = client.rpc(_executions(swapped, rows) + b"\xff" + call(15, integer(handle)))
    assert loads == [50]
    assert answer.errors == []
    assert [done for done in answer.done if done[0] == DONEINPROC] == [(DONEINPROC, MORE | COUNT, 1)] * 50
    assert len([done for done in answer.done if done[0] == DONEPROC]) == 51
    assert client.batch("SELECT COUNT(*), COUNT(s), MAX(i) FROM together").rows == [[50, 49, 49]]


def test_executemany_that_can_not_be_loaded_fails_where_each_row_fails(client: RawClient) -> None:
    client.batch("CREATE TABLE unique_rows (i int PRIMARY KEY, s varchar)")
    handle = _handle(client, "@P1 int, @P2 nvarchar(10)", "INSERT INTO unique_rows (i, s) VALUES (@P1, @P2)")
    answer = client.rpc(_executions(handle, [(i % 10, "x") for i in range(12)]))
    assert [number for number, _ in answer.errors] == [2627, 2627]
    assert client.batch("SELECT COUNT(*) FROM unique_rows").rows == [[10]]
    assert client.batch("BEGIN TRAN").errors == []
    answer = client.rpc(_executions(handle, [(i, "x") for i in range(10)]))
    assert answer.errors[0] == (2627, "Violation of PRIMARY KEY constraint.")
    assert len(answer.errors) == 10


def test_columns_alone_between_fmtonly(client: RawClient) -> None:
    client.batch("CREATE TABLE probed (i int, s varchar)")
    answer = client.batch(
        "select @@trancount; SET FMTONLY ON select * from [probed] SET FMTONLY OFF "
        "exec ..sp_tablecollations_100 N'.[probed]'"
    )
    assert answer.columns == [[""], ["i", "s"], ["colid", "name", "tds_collation", "collation"]]
    assert answer.rows == [[0], [1, "i", None, None], [2, "s", COLLATION, "SQL_Latin1_General_CP1_CI_AS"]]


BULK_COPY_PROBE = """SELECT @@TRANCOUNT;

DECLARE @Column_Names NVARCHAR(MAX) = NULL;
DECLARE @sql NVARCHAR(MAX);
EXEC sp_executesql @sql, N'@CN NVARCHAR(MAX) OUTPUT', @CN = @Column_Names OUTPUT;

SELECT @Column_Names = COALESCE(@Column_Names, '*');

SET FMTONLY ON;
EXEC(N'SELECT ' + @Column_Names + N' FROM [dbo].[copied]');
SET FMTONLY OFF;

EXEC sp_tablecollations_100 N'[dbo].[copied]';"""


def test_the_probe_of_mssql_pythons_bulk_copy(client: RawClient) -> None:
    client.batch("CREATE TABLE copied (i int, s varchar)")
    answer = client.batch(BULK_COPY_PROBE)
    assert answer.columns[1:] == [["i", "s"], ["colid", "name", "tds_collation", "collation"]]
    assert answer.rows[0] == [0]


def test_a_fault_of_the_engine_is_told_and_logged_and_the_connection_goes_on(
    client: RawClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: StandIn, batch: str, parameters: object = ()) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "execute", fail)
        answer = client.batch("SELECT 1")
    assert answer.errors[0][0] == 40197
    assert "ZeroDivisionError" in answer.errors[0][1]
    assert answer.done == [(DONE, ERROR, 0)]
    assert "a request failed inside the server" in caplog.text
    assert client.batch("SELECT 1 AS a").rows == [[1]]
