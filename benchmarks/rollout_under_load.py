"""Does a roll-out cost a request?

Twenty callers are at work while an endpoint is deployed to, rolled out, updated in place, scaled, rolled back and
cleaned up:

    var/env/airflow/bin/python benchmarks/rollout_under_load.py [--connection <home>/connection.json] [--callers 20]

Without --connection a localazure of its own is started in a temporary folder. Prints a table, a row a phase; the exit
code is 1 if a single request failed. The callers keep their connections open, as real ones do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
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
sys.path.insert(0, str(CHECKOUT / "plugins"))

from azflow.canary import Scorer  # noqa: E402
from azflow.connection import AzureConnection, Cloud  # noqa: E402
from azflow.errors import RolloutFailed  # noqa: E402
from azflow.guardrails import RolloutRules, percentile  # noqa: E402
from azflow.online_endpoint import OnlineEndpoint  # noqa: E402
from azflow.rollout import Rollout  # noqa: E402

log = logging.getLogger("rollout_under_load")

ROWS = [{"hour": hour % 24, "temp": 40.0 + hour} for hour in range(60)]
BASE_PORT = 23700

#: Two classifiers that agree and one that contradicts. Argument: a folder.
TRAIN = """
import sys
import mlflow.sklearn, numpy as np, pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
for number in (1, 2, 3):
    random = np.random.default_rng(number)
    flights = pd.DataFrame({"hour": random.integers(5, 23, 500), "temp": random.normal(50, 10, 500)})
    late = (flights.hour > 15).astype(int) if number < 3 else (flights.hour <= 15).astype(int)
    mlflow.sklearn.save_model(LogisticRegression().fit(flights, late), f"{sys.argv[1]}/{number}/model",
        serialization_format="cloudpickle", signature=infer_signature(flights), pip_requirements=["scikit-learn"])
"""


class Callers:
    """Callers at work, each on a connection of its own; what they saw, by phase."""

    def __init__(self, uri: str, key: str, verify: str, count: int) -> None:
        self.phase = "warm-up"
        self.seen: dict[str, list[float]] = {}
        self.failures: dict[str, Counter[str]] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(uri, key, verify)) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, uri: str, key: str, verify: str) -> None:
        scorer = Scorer(uri, key, verify=verify)
        while not self._stop.is_set():
            # The phase in which a request was sent is the one it counts for.
            phase = self.phase
            answer = scorer.score(ROWS[:1])
            with self._lock:
                if answer.problem:
                    self.failures.setdefault(phase, Counter())[answer.problem[:200]] += 1
                else:
                    self.seen.setdefault(phase, []).append(answer.milliseconds)
            time.sleep(0.01)
        scorer.close()


class Trial:
    """The steps, each a phase of the table."""

    def __init__(self, connection: AzureConnection, folder: Path, callers: int) -> None:
        self.connection = connection
        self.client = connection.ml_client()
        self.name = f"bench-{uuid.uuid4().hex[:8]}"
        self.online = OnlineEndpoint(connection, self.name)
        self.folder = folder
        self.callers = callers
        self.seconds: dict[str, float] = {}

    def run(self) -> Callers:
        """All phases. The endpoint is deleted at the end."""
        from azure.ai.ml.entities import KubernetesOnlineEndpoint

        endpoint = KubernetesOnlineEndpoint(name=self.name, compute="azureml:aks-scoring", auth_mode="key")
        self.client.online_endpoints.begin_create_or_update(endpoint).result()
        try:
            self._deploy("champion", 1)
            self.online.write_traffic({"champion": 100})
            uri, key = self.online.document()["properties"]["scoringUri"], self.online.key()
            with Callers(uri, key, self.connection.verify, self.callers) as at_work:
                self._all(at_work)
                time.sleep(1)
            return at_work
        finally:
            self.client.online_endpoints.begin_delete(self.name).result()

    def _all(self, at_work: Callers) -> None:
        changed = {"LATE_THRESHOLD": "0.4"}
        with self._phase(at_work, "deploy a challenger"):
            self._deploy("challenger", 2)
        with self._phase(at_work, "roll-out 10, 50, 100"):
            self._roll_out("challenger")
        with self._phase(at_work, "update in place"):
            self._deploy("challenger", 2, changed)
        with self._phase(at_work, "scale to 2 instances"):
            self._deploy("challenger", 2, changed, instances=2)
        with self._phase(at_work, "deploy a bad one"):
            self._deploy("bad", 3)
        with self._phase(at_work, "roll-out, rolled back"), contextlib.suppress(RolloutFailed):
            self._roll_out("bad")
            raise SystemExit("the bad deployment was not rolled back")
        with self._phase(at_work, "20 traffic changes"):
            for share in range(1, 21):
                self.online.write_traffic({"challenger": 100 - share, "champion": share})
        with self._phase(at_work, "delete two deployments"):
            self.online.write_traffic({"challenger": 100})
            for name in ("bad", "champion"):
                self.online.delete_deployment(name)

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
            request_settings=OnlineRequestSettings(request_timeout_ms=30_000),
            instance_count=instances,
        )
        self.client.online_deployments.begin_create_or_update(wanted, skip_script_validation=True).result()

    def _roll_out(self, name: str) -> None:
        uri, key = self.online.document()["properties"]["scoringUri"], self.online.key()
        rules = RolloutRules(max_p95_ms=10_000, min_agreement=0.8, min_requests=5)
        scorer = Scorer(uri, key, verify=self.connection.verify)
        Rollout(self.online, scorer, ROWS, name, rules, 3.0, log).run((10, 50, 100))


def table(trial: Trial, callers: Callers) -> str:
    """What was seen, a row a phase."""
    rows = [("phase", "seconds", "requests", "failed", "p50 ms", "p95 ms")]
    for name, seconds in trial.seconds.items():
        times = callers.seen.get(name, [])
        failed = sum(callers.failures.get(name, Counter()).values())
        middle, high = (percentile(times, portion) if times else 0.0 for portion in (0.5, 0.95))
        rows.append((name, f"{seconds:.1f}", str(len(times) + failed), str(failed), f"{middle:.0f}", f"{high:.0f}"))
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
    """The exit code: 0 if no request failed."""
    parser = argparse.ArgumentParser(description="A roll-out under load: does it cost a request?")
    parser.add_argument("--connection", type=Path, help="connection.json of a running localazure")
    parser.add_argument("--callers", type=int, default=20)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    resolve_localhost()
    with tempfile.TemporaryDirectory() as name, running(arguments.connection, Path(name)) as file:
        folder = Path(name)
        python = CHECKOUT / "var/env/compute/bin/python"
        subprocess.run([python, "-c", TRAIN, str(folder)], check=True, capture_output=True)
        trial = Trial(connection_of(file), folder, arguments.callers)
        callers = trial.run()
    print(table(trial, callers))
    failures = sum(callers.failures.values(), Counter())
    answered = sum(len(times) for times in callers.seen.values())
    print(f"\n{answered} requests answered, {failures.total()} failed, {arguments.callers} callers")
    for problem, count in failures.most_common(5):
        print(f"  {count} x {problem}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
