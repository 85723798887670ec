"""What the router is told: endpoints, keys and traffic as configurations of Caddy.

Pure: the wanted state in, Caddy's JSON out (https://caddyserver.com/docs/json/). Paths and status codes are Azure's:
https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints (HTTP status codes).

The router is two Caddys. One holds the clients' connections and never changes. The other one, behind it, knows
endpoints and traffic and is configured anew at every change. A Caddy that takes a new configuration replaces its
servers, and a Go server that shuts down drops requests it has accepted but not read yet: a client would see its
connection end without an answer (with 20 at work, every change cost a few). The Caddy in front sees that instead, and
asks again.

It also asks again, once, when an instance dies under a request. The Caddy behind answers `ASK_AGAIN` and names the
deployment and the instance; the second try goes to another instance of the same deployment, however traffic is split,
and its outcome counts (docs/decisions/0013-second-try.md). What took too long isn't asked again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Json = dict[str, Any]

DEPLOYMENT_HEADER = "azureml-model-deployment"
# Between the two Caddys: "this instance ended without an answer, ask again". No server's own answer leaves the inner
# Caddy with a status of 5xx that isn't in Azure's list, so that this one is nobody else's.
ASK_AGAIN = 599
_SECOND_TRY = "X-Azureml-Second-Try"
#: Set by the inference server's wrapper on a request that has waited longer than maxQueueWait.
QUEUE_HEADER = "x-azureml-queue-wait-exceeded"
#: When the router passed the request on, in milliseconds since 1970.
START_HEADER = "X-Request-Start"
# Held in memory by the front, so that a request can be sent again; larger ones are passed on as they come.
_BUFFERED_BYTES = 16 * 1024 * 1024
# Connections that the front keeps open to the inner Caddy.
_IDLE = 128
# Longer than any request: an instance may die in a request's last second.
_SECOND_TRIES = "310s"


@dataclass(frozen=True)
class DeploymentRoute:
    """A deployment: its ready instances (`host:port`), its state in Azure's word, its request time-out in seconds.

    `limit` is how many requests an instance may have at once, None where requests queue.
    """

    name: str
    addresses: tuple[str, ...]
    state: str
    timeout: float = 5.0
    limit: int | None = None


@dataclass(frozen=True)
class EndpointRoute:
    """An endpoint. `keys` are all that are accepted; `traffic` maps deployments to percent.

    With tokens in place of keys, `verifier` is who judges them: `host:port/path`.
    """

    name: str
    keys: tuple[str, ...] = field(repr=False)
    kubernetes: bool
    traffic: Mapping[str, int]
    deployments: tuple[DeploymentRoute, ...]
    verifier: str = ""


@dataclass(frozen=True)
class Site:
    """Where the router listens (`host:port`), and its files."""

    front: str
    inner: str
    admin: str
    admin_origin: str = field(repr=False)
    certificate: Path
    key: Path
    folder: Path
    logs: Path


def scoring_path(endpoint: str) -> str:
    """The path of the scoring URI, as Azure ML's Kubernetes extension has it."""
    return f"/api/v1/endpoint/{endpoint}/score"


def swagger_path(endpoint: str) -> str:
    """The path of the endpoint's OpenAPI document."""
    return f"/api/v1/endpoint/{endpoint}/swagger.json"


def access_log(site: Site, endpoint: str) -> Path:
    """The file of an endpoint's requests: a JSON object a line, with the deployment that answered."""
    return site.logs / f"scoring-{endpoint}.log"


def front(site: Site) -> Json:
    """The configuration of the Caddy that clients talk to: TLS, and everything passed on."""
    unreachable = _error(503, "ServiceUnavailable", "The router is starting; try again.")
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": site.inner}],
        "transport": {"protocol": "http", "keep_alive": {"enabled": True, "max_idle_conns_per_host": _IDLE}},
        "request_buffers": _BUFFERED_BYTES,
        # Evaluated anew at each try: nothing at the first one, then what the answer before says. What a client sends
        # under this name is overwritten.
        "headers": {"request": {"set": {_SECOND_TRY: [f"{{http.reverse_proxy.header.{_SECOND_TRY}}}"]}}},
        "load_balancing": {
            "try_duration": _SECOND_TRIES,
            "try_interval": "10ms",
            # Whatever goes wrong behind an instance is an answer of the inner Caddy. No answer at all means that it was
            # being configured and hasn't touched the request, so that even a POST may be sent again.
            "retry_match": [
                {
                    "expression": "{http.reverse_proxy.is_transport_error} == true"
                    f" || {{http.reverse_proxy.status_code}} == {ASK_AGAIN}"
                }
            ],
        },
    }
    return {
        "admin": {"disabled": True},
        "storage": {"module": "file_system", "root": str(site.folder / "data")},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "http": {
                "servers": {
                    "front": {
                        "listen": [site.front],
                        "protocols": ["h1", "h2"],
                        "automatic_https": {"disable": True},
                        "tls_connection_policies": [{}],
                        "routes": [{"handle": [proxy]}],
                        "errors": {"routes": [{"handle": [unreachable]}]},
                    }
                }
            },
            "tls": {"certificates": {"load_files": [{"certificate": str(site.certificate), "key": str(site.key)}]}},
        },
    }


def configuration(site: Site, endpoints: Iterable[EndpointRoute], draining: Iterable[str] = ()) -> Json:
    """The configuration of the Caddy behind. `draining` addresses get no new request; their open ones are countable."""
    endpoints = sorted(endpoints, key=lambda endpoint: endpoint.name)
    routes = [_endpoint(endpoint) for endpoint in endpoints]
    if upstreams := [(address, None) for address in sorted(draining)]:
        # A route that never matches: Caddy counts the open requests of those upstreams that its configuration names.
        routes.append({"match": [{"not": [{"path": ["*"]}]}], "handle": [_proxy(upstreams, 5.0)]})
    routes.append({"handle": [_error(404, "NotFound", "There is no endpoint under this address.")]})
    logs: Json = {"default": {"level": "WARN", "exclude": ["http.log.access"]}}
    for endpoint in endpoints:
        logs[f"scoring-{endpoint.name}"] = {
            "writer": {
                "output": "file",
                "filename": str(access_log(site, endpoint.name)),
                "mode": "0600",
                "roll_size_mb": 20,
                "roll_keep": 2,
            },
            # Of the request nothing is written: that is a tenth of the router's work, and nobody's secret stands in it.
            "encoder": {
                "format": "filter",
                "wrap": {"format": "json"},
                "fields": {name: {"filter": "delete"} for name in ("request", "resp_headers", "user_id", "bytes_read")},
            },
            "include": [f"http.log.access.scoring-{endpoint.name}"],
        }
    return {
        "admin": {
            "listen": site.admin,
            # Loopback is open to every user of the machine: the secret origin is what lets only localazure in.
            "enforce_origin": True,
            "origins": [site.admin_origin],
            # Otherwise Caddy saves the keys in the user's own configuration folder as well.
            "config": {"persist": False},
        },
        "storage": {"module": "file_system", "root": str(site.folder / "data")},
        "logging": {"logs": logs},
        "apps": {
            "http": {
                "servers": {
                    "scoring": {
                        "listen": [site.inner],
                        "protocols": ["h1"],
                        "automatic_https": {"disable": True},
                        "routes": routes,
                        "errors": {"routes": _errors()},
                        "logs": {"default_logger_name": "other"},
                    }
                }
            }
        },
    }


def weights(traffic: Mapping[str, int], instances: Mapping[str, tuple[str, ...]]) -> list[tuple[str, int]]:
    """Addresses and weights that split requests exactly as the traffic map says, however many instances there are.

    The weights are as small as can be: Caddy serves an upstream's whole weight in a row, so 9 and 1 spread a canary's
    share more evenly than 90 and 10.
    """
    taking = {name: percent for name, percent in traffic.items() if percent and instances.get(name)}
    if not taking:
        return []
    common = math.lcm(*(len(instances[name]) for name in taking))
    pairs = [
        (address, percent * common // len(instances[name]))
        for name, percent in taking.items()
        for address in instances[name]
    ]
    divisor = math.gcd(*(weight for _, weight in pairs))
    return [(address, weight // divisor) for address, weight in pairs]


def _endpoint(endpoint: EndpointRoute) -> Json:
    instances = {deployment.name: deployment.addresses for deployment in endpoint.deployments}
    logger = f"scoring-{endpoint.name}"
    steps: list[Json] = [
        {
            "handle": [
                {
                    "handler": "vars",
                    "access_logger_names": [logger],
                    "compute": "kubernetes" if endpoint.kubernetes else "managed",
                },
                {
                    "handler": "map",
                    "source": "{http.reverse_proxy.upstream.hostport}",
                    "destinations": ["{azureml.deployment}"],
                    "mappings": [
                        {"input": address, "outputs": [name]} for name, all_ in instances.items() for address in all_
                    ],
                    "defaults": [""],
                },
                {"handler": "log_append", "key": "deployment", "value": "{azureml.deployment}"},
            ]
        },
        _authorisation(endpoint),
        {
            "handle": [
                {"handler": "rewrite", "strip_path_prefix": f"/api/v1/endpoint/{endpoint.name}"},
                {
                    "handler": "headers",
                    "response": {"deferred": True, "set": {DEPLOYMENT_HEADER: ["{azureml.deployment}"]}},
                },
            ]
        },
    ]
    second: list[Json] = [
        each for deployment in endpoint.deployments for each in _again(deployment, endpoint.kubernetes)
    ]
    if second:
        marked = [f"{deployment.name}/*" for deployment in endpoint.deployments]
        steps.append(
            {"match": [{"header": {_SECOND_TRY: marked}}], "handle": [{"handler": "subroute", "routes": second}]}
        )
    for deployment in endpoint.deployments:
        steps.append(
            {
                "match": [{"header": {DEPLOYMENT_HEADER: [deployment.name]}}],
                "handle": [_one(deployment, endpoint.kubernetes)],
            }
        )
    names = ", ".join(sorted(instances)) or "none"
    steps.append(
        {
            "match": [{"header": {DEPLOYMENT_HEADER: ["*"]}}],
            "handle": [
                _error(
                    404,
                    "DeploymentNotFound",
                    f"The header {DEPLOYMENT_HEADER} names a deployment that endpoint "
                    f"'{endpoint.name}' doesn't have; there is: {names}.",
                )
            ],
        }
    )
    steps.append({"handle": [_split(endpoint, instances)]})
    return {
        "match": [{"path": [scoring_path(endpoint.name), swagger_path(endpoint.name)]}],
        "handle": [{"handler": "subroute", "routes": steps}],
        "terminal": True,
    }


def _authorisation(endpoint: EndpointRoute) -> Json:
    """Who may ask. A key is compared here; a token is judged by the verifier, which is asked with the headers alone."""
    if not endpoint.verifier:
        wrong = _error(
            401,
            "Unauthorized",
            "The key is missing, expired or not this endpoint's. Send it as: Authorization: Bearer <key>",
        )
        return {
            "match": [{"not": [{"header": {"Authorization": [f"Bearer {key}" for key in endpoint.keys]}}]}],
            "handle": [wrong],
        }
    dial, _, path = endpoint.verifier.partition("/")
    return {
        "handle": [
            {
                "handler": "reverse_proxy",
                "upstreams": [{"dial": dial}],
                "rewrite": {"method": "GET", "uri": f"/{path}"},
                "transport": {"protocol": "http", "dial_timeout": "2s", "response_header_timeout": "5s"},
                # Good: on to the next handler. Anything else is the client's answer.
                "handle_response": [{"match": {"status_code": [2]}, "routes": [{"handle": [{"handler": "vars"}]}]}],
            }
        ]
    }


def _again(deployment: DeploymentRoute, kubernetes: bool) -> list[Json]:
    """Second tries, marked `deployment/instance`: to the other instances; to the only one, which is being restarted."""
    routes = []
    for address in deployment.addresses:
        others = tuple(other for other in deployment.addresses if other != address)
        if others:
            match = [{"header": {_SECOND_TRY: [f"{deployment.name}/{address}"]}}]
            routes.append({"match": match, "handle": [_one(replace(deployment, addresses=others), kubernetes)]})
    # The instance is out of the configuration by now, or the only one.
    match = [{"header": {_SECOND_TRY: [f"{deployment.name}/*"]}}]
    return [*routes, {"match": match, "handle": [_one(deployment, kubernetes)]}]


def _one(deployment: DeploymentRoute, kubernetes: bool) -> Json:
    """Requests for one deployment: the instance with the fewest open requests."""
    if not deployment.addresses:
        message = f"Deployment '{deployment.name}' has no instance that is ready (state: {deployment.state})."
        return _error(503, "ServiceUnavailable", message, {DEPLOYMENT_HEADER: [deployment.name]})
    proxy = _proxy([(address, deployment.limit) for address in deployment.addresses], deployment.timeout, kubernetes)
    if len(deployment.addresses) > 1:
        proxy["load_balancing"] = {"selection_policy": {"policy": "least_conn"}}
    return proxy


def _split(endpoint: EndpointRoute, instances: Mapping[str, tuple[str, ...]]) -> Json:
    """Requests for the endpoint, split by the traffic map."""
    taking = [deployment for deployment in endpoint.deployments if endpoint.traffic.get(deployment.name)]
    if not taking:
        return _error(404, "NotFound", f"Endpoint '{endpoint.name}' has no deployment with positive traffic.")
    ready = [deployment for deployment in taking if deployment.addresses]
    if not ready:
        return _error(503, "ServiceUnavailable", f"No deployment of endpoint '{endpoint.name}' is ready yet.")
    if len(ready) == 1:
        return _one(ready[0], endpoint.kubernetes)
    pairs = weights(endpoint.traffic, instances)
    timeout = max(deployment.timeout for deployment in ready)
    limits = {address: deployment.limit for deployment in ready for address in deployment.addresses}
    proxy = _proxy([(address, limits[address]) for address, _ in pairs], timeout, endpoint.kubernetes)
    proxy["load_balancing"] = {
        "selection_policy": {"policy": "weighted_round_robin", "weights": [weight for _, weight in pairs]}
    }
    return proxy


def _proxy(upstreams: Sequence[tuple[str, int | None]], timeout: float, kubernetes: bool = True) -> Json:
    """A hop to instances, each with its limit of requests at once."""
    # Managed: any answer but 200 is 424, its own status in a header. Kubernetes: run() raised or crashed is 502.
    if kubernetes:
        status, failed = 502, [5]
    else:
        status, failed = 424, [4, 5]
    told = {
        "handler": "headers",
        "response": {
            "set": {
                "ms-azureml-model-error-statuscode": ["{http.reverse_proxy.status_code}"],
                "ms-azureml-model-error-reason": ["{http.reverse_proxy.status_text}"],
            }
        },
    }
    logged = {"handler": "log_append", "key": "model_status", "value": "{http.reverse_proxy.status_code}"}
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": address} | ({"max_requests": limit} if limit else {}) for address, limit in upstreams],
        "transport": {
            "protocol": "http",
            # The inference server's workers close after every answer; a connection kept would be a race.
            "keep_alive": {"enabled": False},
            "dial_timeout": "2s",
            "response_header_timeout": _duration(timeout),
        },
        # The model needn't know the key, nor what the two Caddys say to each other.
        "headers": {
            "request": {"delete": ["Authorization", _SECOND_TRY], "set": {START_HEADER: ["{time.now.unix_ms}"]}}
        },
        "handle_response": [
            {
                "match": {"status_code": [503], "headers": {QUEUE_HEADER: ["*"]}},
                "routes": [{"handle": [{"handler": "copy_response"}]}],
            },
            {
                "match": {"status_code": failed},
                "routes": [{"handle": [told, logged, {"handler": "copy_response", "status_code": status}]}],
            },
        ],
    }


def _errors() -> list[Json]:
    """What a client is told when the proxy itself fails.

    504 is a time-out, 503 that every instance has as many requests as it may have. The rest is an instance that ended
    without an answer: the front is told to ask again, unless it has.
    """
    named = {DEPLOYMENT_HEADER: ["{azureml.deployment}"]}
    late = "The model took longer than the deployment's request_timeout_ms."
    full = "The deployment has as many requests as it may have: 2 * max_concurrent_requests_per_instance * instances."
    gone = "The deployment has no instance that answers; it may be restarting. Its log tells why."
    untold = "The token can't be verified at the moment; try again."
    managed: Json = {"vars": {"compute": ["managed"]}}
    timeout: Json = {"expression": "{http.error.status_code} == 504"}
    limited: Json = {"expression": "{http.error.status_code} == 503"}
    failed: Json = {"expression": "{http.error.status_code} == 502"}
    known: Json = {"expression": "{azureml.deployment} != ''"}
    first: Json = {"not": [{"header": {_SECOND_TRY: ["*/127.*"]}}]}
    again = {
        "handler": "static_response",
        "status_code": ASK_AGAIN,
        "headers": {_SECOND_TRY: ["{azureml.deployment}/{http.reverse_proxy.upstream.hostport}"]},
    }
    return [
        {"match": [managed | timeout], "handle": [_error(408, "RequestTimeout", late, named)], "terminal": True},
        {"match": [timeout], "handle": [_error(504, "GatewayTimeout", late, named)], "terminal": True},
        {"match": [limited], "handle": [_error(429, "TooManyRequests", full)], "terminal": True},
        {"match": [{"not": [known]}], "handle": [_error(503, "ServiceUnavailable", untold)], "terminal": True},
        {"match": [failed | first], "handle": [again], "terminal": True},
        {"match": [managed | failed], "handle": [_error(424, "ModelError", gone, named)], "terminal": True},
        {"match": [failed], "handle": [_error(503, "ServiceUnavailable", gone, named)], "terminal": True},
    ]


def _error(status: int, code: str, message: str, headers: Mapping[str, list[str]] | None = None) -> Json:
    return {
        "handler": "static_response",
        "status_code": status,
        "headers": {"Content-Type": ["application/json"], **(headers or {})},
        "body": json.dumps({"error": {"code": code, "message": message}}),
    }


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
