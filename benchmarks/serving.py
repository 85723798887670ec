"""What the scoring router costs, and what the end of an instance costs: localazure's serving, measured.

    var/env/airflow/bin/python benchmarks/serving.py [--connection <home>/connection.json] [--requests 1500]
        [--rounds 5]

The price: one deployment (a scikit-learn model, the project's own scoring script) is asked alone, at its inference
server's address, and through the router with TLS and a key. Both by the same bare clients, which keep their connection
as long as the server does; one after the other in turn, in random order, so that what else the machine does hits both.
Prints the time that the router adds at the median, and the requests a second that 8 clients get through, as a share of
what they get alone. The processor time that the router's processes take for a request is printed too: it says something
on a busy machine, where the other figures don't.

The losses: 50 requests a second of real rows, sent whatever becomes of those before, while instances get SIGKILL: one
of two, one of two under a split, the only one; and while a deployment of two is updated and scaled. Prints how many
requests failed.

The exit code is 1 if the router adds 1 ms or more, passes less than 0.9, or a request failed. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
from rollout_under_load import CHECKOUT, TRAIN, connection_of, real_flights, resolve_localhost, running

MOST_ADDED_MS, LEAST_SHARE = 1.0, 0.9
RATE, CLIENTS, LOAD_SECONDS = 50, 8, 4.0
SCENARIO_SECONDS = 12.0


class Caller:
    """A bare HTTP/1.1 client on one connection, which it keeps as long as the server does."""

    def __init__(self, port: int, path: str, key: str, context: ssl.SSLContext | None, body: bytes) -> None:
        self._port = port
        self._context = context
        self._connection: Any = None
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    def ask(self) -> int:
        """One request; the answer's status."""
        if self._connection is None:
            plain = socket.create_connection(("127.0.0.1", self._port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = self._context.wrap_socket(plain, server_hostname="localhost") if self._context else plain
        self._connection.sendall(self._request)
        found = b""
        while b"\r\n\r\n" not in found:
            found += self._more()
        head, _, body = found.partition(b"\r\n\r\n")
        head = head.lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        if b"connection: close" in head:
            self._connection.close()
            self._connection = None
        return int(head.split()[1])

    def _more(self) -> bytes:
        part: bytes = self._connection.recv(65536)
        if not part:
            raise ConnectionError("the server closed the connection before it had answered")
        return part


class Target:
    """Where one way of asking leads; made anew in another process."""

    def __init__(self, port: int, path: str, key: str, bundle: str, body: bytes) -> None:
        self.port, self.path, self.key, self.bundle, self.body = port, path, key, bundle, body

    def caller(self) -> Caller:
        context = ssl.create_default_context(cafile=self.bundle) if self.bundle else None
        return Caller(self.port, self.path, self.key, context, self.body)


def throughput(target: Target, seconds: float, results: Any) -> None:
    """Requests a second of CLIENTS threads; runs in a process of its own."""
    counts: list[int] = []
    end = time.monotonic() + seconds

    def work() -> None:
        caller, count = target.caller(), 0
        while time.monotonic() < end:
            if caller.ask() != httpx.codes.OK:
                raise SystemExit("a request failed")
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(sum(counts) / seconds)


def listening(port: int) -> list[int]:
    """The processes that listen on a port."""
    found = subprocess.run(["ss", "-ltnpH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid in re.findall(r"pid=(\d+)", found)]


def processor_seconds(pids: list[int]) -> float:
    """Of all threads that these processes have now (proc(5), schedstat)."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def price(targets: dict[str, Target], router: list[int], requests: int, rounds: int) -> tuple[float, float]:
    """What the router adds in milliseconds at the median, and the share of the throughput that it passes."""
    callers = {name: target.caller() for name, target in targets.items()}
    times: dict[str, list[float]] = {name: [] for name in callers}
    for caller in callers.values():
        for _ in range(50):
            caller.ask()
    before = processor_seconds(router)
    for _ in range(requests):
        for name in random.sample(list(callers), len(callers)):
            begun = time.perf_counter()
            callers[name].ask()
            times[name].append((time.perf_counter() - begun) * 1000)
    spent = (processor_seconds(router) - before) / requests * 1000
    print(f"{'':24}{'p50 ms':>10}{'p95 ms':>10}")
    for name, found in times.items():
        print(f"{name:24}{statistics.median(found):>10.2f}{statistics.quantiles(found, n=20)[-1]:>10.2f}")
    added = statistics.median(times["router"]) - statistics.median(times["alone"])
    print(f"the router adds {added:.2f} ms at the median; its processes take {spent:.2f} ms of a processor a request\n")

    rates: dict[str, list[float]] = {name: [] for name in targets}
    context = get_context("fork")
    for _ in range(rounds):
        for name in random.sample(list(targets), len(targets)):
            results = context.Queue()
            process = context.Process(target=throughput, args=(targets[name], LOAD_SECONDS, results))
            process.start()
            rates[name].append(results.get())
            process.join()
    shares = [through / alone for through, alone in zip(rates["router"], rates["alone"], strict=True)]
    for name, found in rates.items():
        print(f"{name:24}{statistics.median(found):>10.0f} requests/s of {CLIENTS} clients (median of {rounds} rounds)")
    share = statistics.median(shares)
    print(f"the router passes {share:.2f} of what one deployment alone serves\n")
    return added, share


class Losses:
    """An endpoint, and what happens to it under load."""

    def __init__(self, connection: Any, file: Path, folder: Path, flights: list[dict[str, Any]]) -> None:
        self.client = connection.ml_client()
        self.flights = flights
        self.home = file.parent
        self.bundle = connection.verify
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.attained = 0.0  # requests a second of the last load

    def deploy(self, name: str, instances: int, **variables: str) -> None:
        from azure.ai.ml.entities import (
            CodeConfiguration,
            Environment,
            KubernetesOnlineDeployment,
            Model,
            OnlineRequestSettings,
        )

        model = Model(name=self.name, version="1", path=str(self.folder / "1" / "model"), type="mlflow_model")
        wanted = KubernetesOnlineDeployment(
            name=name,
            endpoint_name=self.name,
            model=self.client.models.create_or_update(model).id,
            code_configuration=CodeConfiguration(
                code=str(CHECKOUT / "include/ml/endpoints/flight_delay/code"), scoring_script="score.py"
            ),
            environment=Environment(image="x", conda_file={"dependencies": [{"pip": ["scikit-learn"]}]}),
            environment_variables={"OMP_NUM_THREADS": "1", **variables},
            # Whoever waits for the only instance's restart waits in its queue afterwards.
            request_settings=OnlineRequestSettings(request_timeout_ms=60_000, max_queue_wait_ms=60_000),
            instance_count=instances,
        )
        self.client.online_deployments.begin_create_or_update(wanted, skip_script_validation=True).result()

    def traffic(self, shares: dict[str, int]) -> None:
        endpoint = self.client.online_endpoints.get(self.name)
        endpoint.traffic = shares
        self.client.online_endpoints.begin_create_or_update(endpoint).result()

    def kill(self, name: str) -> None:
        """SIGKILL for one instance, with all its processes."""
        files = sorted((self.home / "deployments" / self.name / name).glob("*/inference-server-*.pid"))
        os.killpg(int(random.choice(files).read_text()), signal.SIGKILL)

    def under_load(self, happens: Callable[[], None]) -> Counter[str]:
        """What became of the requests: statuses and errors."""
        endpoint = self.client.online_endpoints.get(self.name)
        key = self.client.online_endpoints.get_keys(self.name).primary_key
        return asyncio.run(self._under_load(endpoint.scoring_uri, key, happens))

    async def _under_load(self, uri: str, key: str, happens: Callable[[], None]) -> Counter[str]:
        context = ssl.create_default_context(cafile=self.bundle)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        headers = {"Authorization": f"Bearer {key}"}
        seen: Counter[str] = Counter()
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=90, limits=limits) as client:

            async def ask(number: int) -> None:
                try:
                    flight = self.flights[number % len(self.flights)]
                    answer = await client.post(uri, json={"data": [flight]}, headers=headers)
                    seen["answered" if answer.is_success else f"{answer.status_code} {answer.text[:100]}"] += 1
                except httpx.HTTPError as error:
                    seen[repr(error)[:100]] += 1

            asked, begun = [], time.monotonic()
            happening = asyncio.get_running_loop().run_in_executor(None, happens)
            number = 0
            while time.monotonic() - begun < SCENARIO_SECONDS or not happening.done():
                asked.append(asyncio.create_task(ask(number)))
                number += 1
                await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            self.attained = number / (time.monotonic() - begun)
            await asyncio.gather(*asked)
            await happening
        return seen

    def kills(self, name: str, times: int) -> Callable[[], None]:
        """Kill an instance now and then."""

        def happens() -> None:
            for _ in range(times):
                time.sleep(SCENARIO_SECONDS / (times + 1))
                self.kill(name)

        return happens

    def run(self) -> int:
        """All scenarios, a row each; how many requests failed."""
        failed = 0
        scenarios: list[tuple[str, dict[str, int], Callable[[], None]]] = [
            ("kill -9 of one of two", {"blue": 100}, self.kills("blue", 2)),
            ("kill -9 under a 50:50 split", {"blue": 50, "green": 50}, self.kills("green", 2)),
            ("update of a version", {"blue": 100}, lambda: self.deploy("blue", 2, LATE_THRESHOLD="0.4")),
            ("two instances to one", {"blue": 100}, lambda: self.deploy("blue", 1, LATE_THRESHOLD="0.4")),
            ("kill -9 of the only one", {"blue": 100}, self.kills("blue", 1)),
        ]
        self.deploy("blue", 2)
        self.deploy("green", 2)
        print(f"{f'at {RATE} requests/s':32}{'requests':>10}{'attained/s':>12}{'failed':>10}")
        for title, shares, happens in scenarios:
            self.traffic(shares)
            seen = self.under_load(happens)
            lost = seen.total() - seen["answered"]
            failed += lost
            print(f"{title:32}{seen.total():>10}{self.attained:>12.1f}{lost:>10}")
            for problem, count in seen.most_common():
                if problem != "answered":
                    print(f"    {count} x {problem}")
        return failed


def main() -> int:
    """The exit code: 0 if the router's price and the losses are what they should be."""
    parser = argparse.ArgumentParser(description="The router's price, and what an instance's end costs")
    parser.add_argument("--connection", type=Path, help="connection.json of a running localazure")
    parser.add_argument("--requests", type=int, default=1500, help="of each kind, for the median")
    parser.add_argument("--rounds", type=int, default=5, help="of each kind, for the throughput")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, force=True)
    resolve_localhost()
    with tempfile.TemporaryDirectory() as name, running(arguments.connection, Path(name)) as file:
        folder = Path(name)
        python = CHECKOUT / "var/env/compute/bin/python"
        flights, learned = real_flights()
        (folder / "flights.csv").write_text("\n".join(learned))
        subprocess.run([python, "-c", TRAIN, folder / "flights.csv", folder], check=True, capture_output=True)
        losses = Losses(connection_of(file), file, folder, flights)
        from azure.ai.ml.entities import KubernetesOnlineEndpoint

        wanted = KubernetesOnlineEndpoint(name=losses.name, compute="azureml:aks-scoring", auth_mode="key")
        losses.client.online_endpoints.begin_create_or_update(wanted).result()
        try:
            losses.deploy("blue", 1)
            losses.traffic({"blue": 100})
            endpoint = losses.client.online_endpoints.get(losses.name)
            key = losses.client.online_endpoints.get_keys(losses.name).primary_key
            port = httpx.URL(endpoint.scoring_uri).port
            assert port is not None
            pid = int(next((losses.home / "deployments" / losses.name).glob("blue/*/*-0.pid")).read_text())
            alone = next(each for each in range(port, port + 200) if pid in listening(each))
            body = json.dumps({"data": flights[:1]}).encode()
            targets = {
                "alone": Target(alone, "/score", key, "", body),
                "router": Target(port, httpx.URL(endpoint.scoring_uri).path, key, losses.bundle, body),
            }
            # The outer Caddy, and the inner one three ports on.
            router = [*listening(port), *listening(port + 3)]
            added, share = price(targets, router, arguments.requests, arguments.rounds)
            failed = losses.run()
        finally:
            losses.client.online_endpoints.begin_delete(losses.name).result()
    print(f"\n{failed} requests failed; the router adds {added:.2f} ms (below {MOST_ADDED_MS:g}), ", end="")
    print(f"passes {share:.2f} (at least {LEAST_SHARE:g})")
    return 1 if failed or added >= MOST_ADDED_MS or share < LEAST_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
