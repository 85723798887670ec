"""The real router in front of small servers: split, header, keys, errors, and reloads under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import port_leases
import pytest

from localazure.core import certificates
from localazure.serving.router import Router, RouterError, router_command
from localazure.serving.routing import DeploymentRoute, EndpointRoute, configuration
from localazure.settings import Settings

KEY = "local-key-0123456789"
PORT_BASE = port_leases.lease()


class Upstream:
    """A server that says its name; `/score` with {"status": n} answers n, with {"sleep": s} late."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[dict[str, str]] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"] or 0)
                text = self.rfile.read(length).decode()
                wish = json.loads(text or "{}")
                upstream.seen.append(dict(self.headers) | {"path": self.path, "body": text})
                if upstream.name in wish.get("drop", ()):
                    self.connection.close()
                    return
                time.sleep(wish.get("sleep", 0))
                self._answer(wish.get("status", 200))

            def do_GET(self) -> None:
                """What the router asks about a token: the token is the answer's status."""
                upstream.seen.append(dict(self.headers) | {"path": self.path})
                self._answer(int(self.headers["Authorization"].removeprefix("Bearer ")))

            def _answer(self, status: int) -> None:
                body = json.dumps({"deployment": upstream.name}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle_one_request(self) -> None:
                with contextlib.suppress(ValueError):
                    super().handle_one_request()

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # the default of 5 drops connections under load

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = Settings.load(tmp_path_factory.mktemp("home"), port_base=PORT_BASE)
    certificates.ensure(made)
    return made


@pytest.fixture(scope="module")
def router(settings: Settings) -> Iterator[Router]:
    settings.logs.mkdir(parents=True, exist_ok=True)
    with (settings.logs / "caddy.log").open("wb") as log:
        process = subprocess.Popen(router_command(settings), stdout=log, stderr=log)
    try:
        yield Router(settings)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def blue() -> Iterator[Upstream]:
    upstream = Upstream("blue")
    yield upstream
    upstream.close()


@pytest.fixture
def green() -> Iterator[Upstream]:
    upstream = Upstream("green")
    yield upstream
    upstream.close()


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=str(settings.ca_bundle))
    with httpx.Client(base_url=settings.router_url, verify=trust, trust_env=False, timeout=20) as made:
        yield made


def route(
    router: Router, traffic: dict[str, int], *upstreams: Upstream, kubernetes: bool = True, timeout: float = 5.0
) -> None:
    deployments = tuple(DeploymentRoute(u.name, (u.address,), "Succeeded", timeout) for u in upstreams)
    deployments += (DeploymentRoute("starting", (), "Creating"),)
    route_all(router, EndpointRoute("flights", (KEY, "second-" + KEY), kubernetes, traffic, deployments))


def route_all(router: Router, endpoint: EndpointRoute) -> None:
    asyncio.run(Router.apply(router, configuration(router.site, [endpoint])))


def score(client: httpx.Client, body: object = None, key: str | None = KEY, **headers: str) -> httpx.Response:
    if key:
        headers["Authorization"] = f"Bearer {key}"
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/api/v1/endpoint/flights/score", json=body or {}, headers=sent)


def test_split_is_exact_and_named(router: Router, client: httpx.Client, blue: Upstream, green: Upstream) -> None:
    route(router, {"blue": 90, "green": 10}, blue, green)
    answers = [score(client) for _ in range(100)]
    assert Counter(answer.json()["deployment"] for answer in answers) == {"blue": 90, "green": 10}
    assert all(answer.headers["azureml-model-deployment"] == answer.json()["deployment"] for answer in answers)
    # The canary's share is spread over the stream, not served in one block.
    assert any(answer.json()["deployment"] == "green" for answer in answers[:10])


def test_header_picks_a_deployment(router: Router, client: httpx.Client, blue: Upstream, green: Upstream) -> None:
    route(router, {"blue": 100, "green": 0}, blue, green)
    for _ in range(3):
        answer = score(client, azureml_model_deployment="green")
        assert answer.json() == {"deployment": "green"}
        assert answer.headers["azureml-model-deployment"] == "green"
    unknown = score(client, azureml_model_deployment="purple")
    assert unknown.status_code == 404
    assert "there is: blue, green, starting" in unknown.json()["error"]["message"]
    starting = score(client, azureml_model_deployment="starting")
    assert starting.status_code == 503
    assert "Creating" in starting.json()["error"]["message"]


def test_keys(router: Router, client: httpx.Client, blue: Upstream) -> None:
    route(router, {"blue": 100}, blue)
    assert score(client, key="second-" + KEY).status_code == 200
    for wrong in (None, "nonsense", KEY + "x", KEY[:-1]):
        refused = score(client, key=wrong)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "Unauthorized"
    # The model needn't know the key.
    assert all("Authorization" not in seen for seen in blue.seen)
    assert {seen["path"] for seen in blue.seen} == {"/score"}


def test_keys_are_kept_from_other_users(router: Router, settings: Settings) -> None:
    for name in ("inner.json", "front.json", "admin-origin"):
        assert stat.S_IMODE((settings.home / "router" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((settings.home / "router").stat().st_mode) == 0o700
    for headers in ({}, {"Origin": "http://localhost"}, {"Origin": settings.admin_url}):
        refused = httpx.get(settings.admin_url + "/config/", headers=headers, trust_env=False)
        assert refused.status_code == 403
        assert KEY not in refused.text


def test_access_log_names_the_deployment_and_hides_the_key(
    router: Router, client: httpx.Client, settings: Settings, blue: Upstream
) -> None:
    route(router, {"blue": 100}, blue)
    assert score(client).status_code == 200
    log = settings.logs / "scoring-flights.log"
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["status"], last["deployment"]) == (200, "blue")
    assert last["duration"] > 0
    assert KEY not in log.read_text()


def test_nothing_else_is_routed(router: Router, client: httpx.Client, blue: Upstream) -> None:
    route(router, {}, blue)
    no_traffic = score(client)
    assert no_traffic.status_code == 404
    assert "positive traffic" in no_traffic.json()["error"]["message"]
    assert client.post("/api/v1/endpoint/other/score", headers={"Authorization": f"Bearer {KEY}"}).status_code == 404
    assert client.get("/").status_code == 404


@pytest.mark.parametrize(("kubernetes", "codes"), [(True, (502, 504)), (False, (424, 408))])
def test_failures_have_azures_status_codes(
    router: Router, client: httpx.Client, kubernetes: bool, codes: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    blue, green = request.getfixturevalue("blue"), request.getfixturevalue("green")
    failed, late = codes
    route(router, {"blue": 50, "green": 50}, blue, green, kubernetes=kubernetes, timeout=0.4)
    for headers in ({}, {"azureml_model_deployment": "blue"}):
        answer = score(client, {"status": 500}, **headers)
        assert answer.status_code == failed
        assert answer.headers["ms-azureml-model-error-statuscode"] == "500"
        assert answer.json()["deployment"] == answer.headers["azureml-model-deployment"]
        answer = score(client, {"sleep": 0.8}, **headers)
        assert answer.status_code == late
        assert answer.headers["azureml-model-deployment"] in {"blue", "green"}
    bad_input = score(client, {"status": 400})
    assert bad_input.status_code == (400 if kubernetes else 424)


@pytest.mark.parametrize(("kubernetes", "status"), [(True, 503), (False, 424)])
def test_a_deployment_without_an_instance_that_answers_is_reported_not_hidden(
    router: Router, client: httpx.Client, blue: Upstream, kubernetes: bool, status: int
) -> None:
    dead = Upstream("green")
    dead.close()
    route(router, {"blue": 50, "green": 50}, blue, dead, kubernetes=kubernetes, timeout=0.4)
    answers = [score(client) for _ in range(4)]
    assert Counter(answer.status_code for answer in answers) == {200: 2, status: 2}
    broken = next(answer for answer in answers if answer.status_code == status)
    assert broken.headers["azureml-model-deployment"] == "green"


@pytest.mark.parametrize("traffic", [{"blue": 100}, {"blue": 50, "green": 50}])
@pytest.mark.parametrize("end", ["refuses", "resets"])
def test_an_instance_that_ends_costs_no_request(
    router: Router, client: httpx.Client, traffic: dict[str, int], end: str, request: pytest.FixtureRequest
) -> None:
    """Half of blue's requests begin at the dead instance; all are answered by blue's other one."""
    blue, green, dead = request.getfixturevalue("blue"), request.getfixturevalue("green"), Upstream("dead")
    if end == "refuses":
        dead.close()
    deployments = (
        DeploymentRoute("blue", (dead.address, blue.address), "Succeeded", 5.0),
        DeploymentRoute("green", (green.address,), "Succeeded", 5.0),
    )
    route_all(router, EndpointRoute("flights", (KEY,), True, traffic, deployments))
    body = {"drop": ["dead"], "text": "é" * 1000}
    answers = [score(client, body) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {200}
    expected = {name: 40 * share // 100 for name, share in traffic.items()}
    assert Counter(answer.json()["deployment"] for answer in answers) == expected
    assert {answer.headers["azureml-model-deployment"] for answer in answers} == set(traffic)
    assert [json.loads(seen["body"]) for seen in blue.seen] == [body] * expected["blue"]
    # What the two processes of the router say to each other isn't the model's business.
    assert not any("second-try" in name.lower() for seen in blue.seen for name in seen)
    if end == "resets":
        dead.close()


def test_a_request_that_ends_its_instances_is_sent_twice_at_most(router: Router, client: httpx.Client) -> None:
    trio = [Upstream(name) for name in ("one", "two", "three")]
    addresses = tuple(each.address for each in trio)
    deployments = (DeploymentRoute("blue", addresses, "Succeeded", 5.0),)
    route_all(router, EndpointRoute("flights", (KEY,), True, {"blue": 100}, deployments))
    answer = score(client, {"drop": ["one", "two", "three"]})
    assert (answer.status_code, answer.headers["azureml-model-deployment"]) == (503, "blue")
    assert sorted(len(each.seen) for each in trio) == [0, 1, 1]
    # Alone, the instance is asked again: it may have been started anew in the meantime.
    route_all(
        router,
        EndpointRoute(
            "flights", (KEY,), True, {"blue": 100}, (DeploymentRoute("blue", addresses[:1], "Succeeded", 5.0),)
        ),
    )
    before = len(trio[0].seen)
    assert score(client, {"drop": ["one"]}, x_azureml_second_try="blue/127.0.0.1:1").status_code == 503
    assert len(trio[0].seen) == before + 2
    for each in trio:
        each.close()


def test_what_takes_too_long_is_not_asked_again(router: Router, client: httpx.Client, blue: Upstream) -> None:
    route(router, {"blue": 100}, blue, timeout=0.3)
    assert score(client, {"sleep": 0.6}).status_code == 504
    time.sleep(0.5)
    assert len(blue.seen) == 1


def test_more_requests_than_an_instance_may_have_are_refused(
    router: Router, client: httpx.Client, blue: Upstream
) -> None:
    deployments = (DeploymentRoute("blue", (blue.address,), "Succeeded", 5.0, limit=2),)
    route_all(router, EndpointRoute("flights", (KEY,), False, {"blue": 100}, deployments))
    with ThreadPoolExecutor(4) as pool:
        statuses = Counter(pool.map(lambda _: score(client, {"sleep": 0.5}).status_code, range(4)))
    assert statuses == {200: 2, 429: 2}


def test_tokens_are_judged_by_the_verifier(
    router: Router, client: httpx.Client, blue: Upstream, green: Upstream
) -> None:
    deployments = (DeploymentRoute("blue", (blue.address,), "Succeeded", 5.0),)
    # The small server answers as it is asked for by the token.
    endpoint = EndpointRoute("flights", (), True, {"blue": 100}, deployments, verifier=f"{green.address}/judge/flights")
    route_all(router, endpoint)
    assert score(client, key="200").json() == {"deployment": "blue"}
    refused = score(client, key="401")
    assert (refused.status_code, refused.json()) == (401, {"deployment": "green"})
    assert [seen["path"] for seen in green.seen] == ["/judge/flights"] * 2
    assert len(blue.seen) == 1
    green.close()
    answer = score(client, key="200")
    assert (answer.status_code, "verified" in answer.text) == (503, True)


def test_reloads_under_load_fail_no_request(
    router: Router, settings: Settings, blue: Upstream, green: Upstream
) -> None:
    """Twenty keep-alive clients at work during 30 swaps."""
    route(router, {"blue": 100}, blue, green)
    failures: list[str] = []
    answered = 0
    stop = threading.Event()

    def work() -> None:
        nonlocal answered
        trust = ssl.create_default_context(cafile=str(settings.ca_bundle))
        with httpx.Client(base_url=settings.router_url, verify=trust, trust_env=False, timeout=20) as own:
            while not stop.is_set():
                try:
                    if (answer := score(own, {"sleep": 0.005})).status_code != 200:
                        failures.append(f"{answer.status_code} {answer.text}")
                    answered += 1
                except httpx.HTTPError as error:
                    failures.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for share in range(1, 31):
        route(router, {"blue": 100 - share, "green": share}, blue, green)
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert answered > 500


def test_a_router_started_again_is_told_again(settings: Settings, router: Router, blue: Upstream) -> None:
    route(router, {"blue": 100}, blue)
    assert asyncio.run(router.ensure()) is False
    asyncio.run(router._load(json.dumps(configuration(router.site, [])), 0))
    assert asyncio.run(router.ensure()) is True
    assert asyncio.run(router.ensure()) is False


def test_a_router_starts_with_what_it_knew(settings: Settings, router: Router, blue: Upstream) -> None:
    route(router, {"blue": 100}, blue)
    router_command(settings)
    assert blue.address in (settings.home / "router/inner.json").read_text()
    # With other ports, what it knew is of no use.
    elsewhere = Settings.load(settings.home, port_base=PORT_BASE + 20)
    router_command(elsewhere)
    assert blue.address not in (settings.home / "router/inner.json").read_text()
    Settings.load(settings.home, port_base=PORT_BASE)


def test_no_router_is_an_error_that_says_where(tmp_path: Path) -> None:
    alone = Router(Settings.load(tmp_path, port_base=PORT_BASE + 50))
    with pytest.raises(RouterError, match=str(PORT_BASE + 55)):
        asyncio.run(alone.apply(configuration(alone.site, []), patience=0.3))
