"""Does a roll-out cost a request?

Fifty requests a second, each a real flight, come in while an endpoint is deployed to, rolled out, updated in place,
loses one of two instances to `kill -9`, refuses a bad model, is rolled back and cleaned up; and ten times a second the
traffic is read:

    var/env/airflow/bin/python benchmarks/rollout_under_load.py [--connection <home>/connection.json] [--rate 50]

Without --connection a localazure of its own is started in a temporary folder. Prints a table, a row a phase, and what
the traffic summed to; the exit code is 1 if a single request failed or the traffic was ever anything but 100.

Requests are sent when they are due, whether those before have been answered or not: a request that waited because the
endpoint was slow shows its wait. Callers keep their connections open, as real ones do.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "plugins"), str(CHECKOUT / "tools")]

import source_simulator  # noqa: E402
from azflow.canary import Scorer  # noqa: E402
from azflow.connection import AzureConnection, Cloud  # noqa: E402
from azflow.errors import RolloutFailed  # noqa: E402
from azflow.guardrails import RolloutRules, percentile  # noqa: E402
from azflow.online_endpoint import OnlineEndpoint  # noqa: E402
from azflow.rollout import Rollout  # noqa: E402

log = logging.getLogger("rollout_under_load")

BASE_PORT = 23700
CALLERS = 48
READS_A_SECOND = 10
WINDOW_SECONDS = 5.0
DAY = "2013-06-14"
COLUMNS = ("carrier", "origin", "dest", "hour", "minute", "distance", "month", "day")
NUMBERS = ("hour", "minute", "distance", "month", "day")

#: Two models of the same flights that agree, and one that contradicts. Arguments: the flights (CSV), a folder.
TRAIN = """
import sys
import mlflow.sklearn, pandas as pd
from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
flights = pd.read_csv(sys.argv[1])
late = (flights.pop("arr_delay") > 15).astype(int)
for number in (1, 2, 3):
    encoded = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["carrier", "origin", "dest"]),
        remainder=StandardScaler())
    model = make_pipeline(encoded, LogisticRegression(C=1.0 if number == 1 else 0.5, max_iter=500))
    model.fit(flights, late if number < 3 else 1 - late)
    mlflow.sklearn.save_model(model, f"{sys.argv[2]}/{number}/model",
        serialization_format="cloudpickle", signature=infer_signature(flights), pip_requirements=["scikit-learn"])
"""


def real_flights() -> tuple[list[dict[str, Any]], list[str]]:
    """A day's flights as rows to score, and two weeks' as lines of a CSV file to learn from."""
    lines = source_simulator.table("flights")
    rows = csv.DictReader(line.decode() for line in lines)
    known, learned = [], [",".join((*COLUMNS, "arr_delay"))]
    for row in rows:
        if row["month"] != "6" or int(row["day"]) > int(DAY[-2:]) or row["arr_delay"] == "NA":
            continue
        if row["day"] == DAY[-2:]:
            known.append({name: int(row[name]) if name in NUMBERS else row[name] for name in COLUMNS})
        else:
            learned.append(",".join(row[name] for name in (*COLUMNS, "arr_delay")))
    return known, learned


class Callers:
    """Requests at a steady rate, on connections that stay open; what was seen, by the phase in which each was due."""

    def __init__(self, uri: str, key: str, verify: str, rate: float, flights: list[dict[str, Any]]) -> None:
        self.phase = "warm-up"
        self.seen: dict[str, list[float]] = {}
        self.failures: dict[str, Counter[str]] = {}
        self._rate, self._flights = rate, flights
        self._due: queue.Queue[tuple[float, str, dict[str, Any]] | None] = queue.Queue()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(uri, key, verify)) for _ in range(CALLERS)]
        self._clock = threading.Thread(target=self._tick)

    def __enter__(self) -> Callers:
        for thread in (*self._threads, self._clock):
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._clock.join()
        for _ in self._threads:
            self._due.put(None)
        for thread in self._threads:
            thread.join()

    def _tick(self) -> None:
        begun = time.perf_counter()
        for number in range(sys.maxsize):
            due = begun + number / self._rate
            if self._stop.wait(max(due - time.perf_counter(), 0)):
                return
            self._due.put((due, self.phase, self._flights[number % len(self._flights)]))

    def _work(self, uri: str, key: str, verify: str) -> None:
        scorer = Scorer(uri, key, verify=verify)
        while (each := self._due.get()) is not None:
            due, phase, flight = each
            answer = scorer.score([flight])
            waited = (time.perf_counter() - due) * 1000
            with self._lock:
                if answer.problem:
                    self.failures.setdefault(phase, Counter())[answer.problem[:200]] += 1
                else:
                    self.seen.setdefault(phase, []).append(waited)
        scorer.close()


class TrafficReader:
    """Reads the endpoint's traffic ten times a second; how often it summed to what."""

    def __init__(self, connection: AzureConnection, endpoint: str) -> None:
        self.sums: Counter[int] = Counter()
        self.maps: set[str] = set()
        self.failures: Counter[str] = Counter()
        self._online = OnlineEndpoint(connection, endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> TrafficReader:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._online.close()

    def _read(self) -> None:
        begun = time.perf_counter()
        for number in range(sys.maxsize):
            if self._stop.wait(max(begun + number / READS_A_SECOND - time.perf_counter(), 0)):
                return
            try:
                traffic = self._online.traffic()
            except Exception as error:
                self.failures[f"{type(error).__name__}: {error}"[:200]] += 1
            else:
                self.sums[sum(traffic.values())] += 1
                self.maps.add(json.dumps(traffic))


class Trial:
    """The steps, each a phase of the table.

    :param home: localazure's, whose processes can be killed.
    """

    def __init__(
        self, connection: AzureConnection, home: Path, folder: Path, rate: float, flights: list[dict[str, Any]]
    ) -> None:
        self.connection = connection
        self.client = connection.ml_client()
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.online = OnlineEndpoint(connection, self.name)
        self.home = home
        self.folder = folder
        self.rate = rate
        self.flights = flights
        self.seconds: dict[str, float] = {}

    def run(self) -> tuple[Callers, TrafficReader]:
        """All phases. The endpoint is deleted at the end."""
        from azure.ai.ml.entities import KubernetesOnlineEndpoint

        endpoint = KubernetesOnlineEndpoint(name=self.name, compute="azureml:aks-scoring", auth_mode="key")
        self.client.online_endpoints.begin_create_or_update(endpoint).result()
        try:
            self._deploy("champion", 1)
            self.online.write_traffic({"champion": 100})
            uri, key = self.online.document()["properties"]["scoringUri"], self.online.key()
            with (
                TrafficReader(self.connection, self.name) as reader,
                Callers(uri, key, self.connection.verify, self.rate, self.flights) as at_work,
            ):
                with self._phase(at_work, "nothing happens"):
                    time.sleep(5)
                self._all(at_work)
                time.sleep(1)
            return at_work, reader
        finally:
            self.client.online_endpoints.begin_delete(self.name).result()

    def _all(self, at_work: Callers) -> None:
        changed = {"LATE_THRESHOLD": "0.4"}
        with self._phase(at_work, "deploy a challenger"):
            self._deploy("challenger", 2)
        with self._phase(at_work, "roll-out 10, 50, 100"):
            self._roll_out("challenger")
        with self._phase(at_work, "rolling update"):
            self._deploy("challenger", 2, changed)
        with self._phase(at_work, "scale to 2 instances"):
            self._deploy("challenger", 2, changed, instances=2)
        with self._phase(at_work, "rolling update of both"):
            self._deploy("challenger", 2, {}, instances=2)
        with self._phase(at_work, "kill -9 of one of two"):
            self._kill_one("challenger")
            time.sleep(8)
        with self._phase(at_work, "deploy a bad one"):
            self._deploy("bad", 3)
        with self._phase(at_work, "roll-out, rolled back"), contextlib.suppress(RolloutFailed):
            self._roll_out("bad")
            raise SystemExit("the bad deployment was not rolled back")
        with self._phase(at_work, "roll back by hand"):
            self.online.write_traffic({"challenger": 0, "champion": 100})
            time.sleep(2)
            self.online.write_traffic({"challenger": 100, "champion": 0})
        with self._phase(at_work, "20 traffic changes"):
            for share in range(1, 21):
                self.online.write_traffic({"challenger": 100 - share, "champion": share})
        with self._phase(at_work, "delete two deployments"):
            self.online.write_traffic({"challenger": 100})
            for name in ("bad", "champion"):
                self.online.delete_deployment(name)

    def _kill_one(self, deployment: str) -> None:
        """`kill -9` of an instance: its server and every process of it."""
        found = sorted(self.home.glob(f"deployments/{self.name}/{deployment}/*/inference-server-*.pid"))
        pids = [int(file.read_text()) for file in found]
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        if len(alive) < 2:  # noqa: PLR2004
            raise SystemExit(f"{deployment} has {len(alive)} instances, not two, below {self.home}")
        os.killpg(alive[0], signal.SIGKILL)

    @contextlib.contextmanager
    def _phase(self, at_work: Callers, name: str) -> Iterator[None]:
        at_work.phase, begun = name, time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - begun

    def _deploy(self, name: str, model: int, variables: dict[str, str] | None = None, instances: int = 1) -> None:
        from azure.ai.ml.entities import (
            CodeConfiguration,
            Environment,
            KubernetesOnlineDeployment,
            Model,
            OnlineRequestSettings,
        )

        path = str(self.folder / str(model) / "model")
        registered = Model(name=f"{self.name}-{name}", version="1", path=path, type="mlflow_model")
        code = CHECKOUT / "include/ml/endpoints/flight_delay/code"
        wanted = KubernetesOnlineDeployment(
            name=name,
            endpoint_name=self.name,
            model=self.client.models.create_or_update(registered).id,
            code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
            environment=Environment(image="x", conda_file={"dependencies": [{"pip": ["scikit-learn"]}]}),
            environment_variables={"OMP_NUM_THREADS": "1", **(variables or {})},
            request_settings=OnlineRequestSettings(request_timeout_ms=30_000, max_queue_wait_ms=30_000),
            instance_count=instances,
        )
        self.client.online_deployments.begin_create_or_update(wanted, skip_script_validation=True).result()

    def _roll_out(self, name: str) -> None:
        uri, key = self.online.document()["properties"]["scoringUri"], self.online.key()
        rules = RolloutRules(max_p95_ms=20_000, min_agreement=0.6, min_requests=2)
        scorer = Scorer(uri, key, verify=self.connection.verify)
        Rollout(self.online, scorer, self.flights, name, rules, WINDOW_SECONDS, log).run((10, 50, 100))


def table(trial: Trial, callers: Callers) -> str:
    """What was seen, a row a phase."""
    rows = [("phase", "seconds", "requests", "failed", "p50 ms", "p95 ms", "most ms")]
    for name, seconds in trial.seconds.items():
        times = callers.seen.get(name, [])
        failed = sum(callers.failures.get(name, Counter()).values())
        shown = [f"{percentile(times, portion):.0f}" if times else "-" for portion in (0.5, 0.95, 1.0)]
        rows.append((name, f"{seconds:.1f}", str(len(times) + failed), str(failed), *shown))
    return "\n".join(f"{row[0]:24}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def connection_of(file: Path) -> AzureConnection:
    """An azflow connection from a connection.json."""
    found: dict[str, Any] = json.loads(file.read_text())
    port = found["storage_account_url"].split(":")[2].partition("/")[0]
    url = found["api_url"]
    cloud = Cloud("local", url, url, url, f"core.localhost:{port}", "https://ml.azure.com")
    names = ("tenant_id", "client_id", "client_secret", "subscription_id", "resource_group", "workspace", "container")
    known = {name: found[name] for name in (*names, "storage_account_url")}
    os.environ["REQUESTS_CA_BUNDLE"] = os.environ["SSL_CERT_FILE"] = found["ca_bundle"]
    return AzureConnection("benchmark", cloud=cloud, verify=found["ca_bundle"], **known)


def resolve_localhost() -> None:
    """Let names below `localhost` resolve (RFC 6761, 6.3); glibc doesn't everywhere."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        below = isinstance(host, str) and host.lower().rstrip(".").endswith(".localhost")
        return resolve("127.0.0.1" if below else host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo


@contextlib.contextmanager
def running(given: Path | None, folder: Path) -> Iterator[Path]:
    """A connection.json: the given one, or that of a localazure of our own."""
    if given:
        yield given
        return
    home = folder / "home"
    command = [CHECKOUT / "var/env/localazure/bin/python", "-m", "localazure", "--home", home]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "emulator/src")}
    subprocess.run([*command, "--port-base", str(BASE_PORT), "up"], env=environment, check=True)
    try:
        yield home / "connection.json"
    finally:
        subprocess.run([*command, "down"], env=environment, check=True)


def main() -> int:
    """The exit code: 0 if no request failed and the traffic always summed to 100."""
    parser = argparse.ArgumentParser(description="A roll-out under load: does it cost a request?")
    parser.add_argument("--connection", type=Path, help="connection.json of a running localazure")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    resolve_localhost()
    with tempfile.TemporaryDirectory() as name, running(arguments.connection, Path(name)) as file:
        folder = Path(name)
        flights, learned = real_flights()
        (folder / "flights.csv").write_text("\n".join(learned))
        python = CHECKOUT / "var/env/compute/bin/python"
        subprocess.run([python, "-c", TRAIN, folder / "flights.csv", folder], check=True, capture_output=True)
        trial = Trial(connection_of(file), file.parent, folder, arguments.rate, flights)
        callers, reader = trial.run()
    print(table(trial, callers))
    failures = sum(callers.failures.values(), Counter())
    answered = sum(len(times) for times in callers.seen.values())
    print(f"\n{answered} requests answered, {failures.total()} failed, {arguments.rate:g}/s, {len(flights)} flights")
    for problem, count in failures.most_common(5):
        print(f"  {count} x {problem}")
    reads = reader.sums.total()
    wrong = {total: count for total, count in reader.sums.items() if total != 100}  # noqa: PLR2004 - percent
    print(f"traffic read {reads} times, {len(reader.maps)} different maps: ", end="")
    print("always 100" if not wrong else f"NOT always 100: {wrong}")
    for problem, count in reader.failures.most_common(3):
        print(f"  {count} reads failed: {problem}")
    return 1 if failures or wrong or reader.failures or not reads else 0


if __name__ == "__main__":
    sys.exit(main())
