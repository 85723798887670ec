"""An endpoint that answers, but how: servers that are silent, that drip, that hang up. Over bare sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from azflow.canary import Scorer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def receive(client: socket.socket) -> None:
    """A request, to the end of its body."""
    seen = b""
    while not seen.endswith(b"]}"):
        if not (part := client.recv(65536)):
            return
        seen += part


def silent(client: socket.socket, over: threading.Event) -> None:
    over.wait(20)


def drips(client: socket.socket, over: threading.Event) -> None:
    client.sendall(HEAD)
    while not over.wait(0.02):
        client.sendall(b" ")


def drips_in_chunks(client: socket.socket, over: threading.Event) -> None:
    client.sendall(CHUNKED)
    while not over.wait(0.02):
        client.sendall(b"1\r\n \r\n")


def hangs_up(client: socket.socket, over: threading.Event) -> None:
    client.sendall(HEAD + b'{"predictions": [')


def no_http(client: socket.socket, over: threading.Event) -> None:
    client.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[socket.socket, threading.Event], None]], str]]:
    """A server on a port of its own that treats its only caller as told."""
    over, listeners, threads = threading.Event(), [], []

    def serve(treat: Callable[[socket.socket, threading.Event], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def work() -> None:
            client, _ = listener.accept()
            with client:
                receive(client)
                with contextlib.suppress(OSError):  # the caller has gone
                    treat(client, over)

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/score"

    yield serve
    over.set()
    for thread, listener in zip(threads, listeners, strict=True):
        thread.join(5)
        listener.close()


@pytest.mark.parametrize(
    ("treat", "says"),
    [
        (silent, "no whole answer within 0.3 s"),
        (drips, "no whole answer within 0.3 s"),
        (drips_in_chunks, "no whole answer within 0.3 s"),
        (hangs_up, "no answer: "),
        (no_http, "no answer: "),
    ],
    ids=["silent", "drips", "drips in chunks", "hangs up", "no HTTP"],
)
def test_an_answer_has_an_end(served: Callable[..., str], treat: Callable[..., None], says: str) -> None:
    scorer = Scorer(served(treat), "key", timeout=0.3)
    begun = time.monotonic()
    answer = scorer.score([{"hour": 1}], "new")
    assert time.monotonic() - begun < 3
    assert says in answer.problem and answer.predictions == [] and answer.deployment == "new"
    scorer.close()


def test_one_connection_serves_many_requests(served: Callable[..., str]) -> None:
    body = b'{"predictions": [0.5]}'

    def three_times(client: socket.socket, over: threading.Event) -> None:
        for _ in range(3):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            receive(client)

    # The server accepts once: a second connection would find nobody.
    scorer = Scorer(served(three_times), "key", timeout=2)
    assert [scorer.score([{"hour": 1}]).problem for _ in range(3)] == ["", "", ""]
    scorer.close()
