"""What the router is told: endpoints, keys and traffic as configurations of Caddy.

Pure: the wanted state in, Caddy's JSON out (https://caddyserver.com/docs/json/). Paths and status codes are Azure's:
https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints (HTTP status codes).

The router is two Caddys. One holds the clients' connections and never changes. The other one, behind it, knows
endpoints and traffic and is configured anew at every change. A Caddy that takes a new configuration replaces its
servers, and a Go server that shuts down drops requests it has accepted but not read yet: a client would see its
connection end without an answer (with 20 at work, every change cost a few). The Caddy in front sees that instead, and
asks again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

DEPLOYMENT_HEADER = "azureml-model-deployment"
# Held in memory by the front, so that a request can be sent again; larger ones are passed on as they come.
_BUFFERED_BYTES = 16 * 1024 * 1024
_SECOND_TRIES = "10s"


@dataclass(frozen=True)
class DeploymentRoute:
    """A deployment: its ready instances (`host:port`), its state in Azure's word, its request time-out in seconds."""

    name: str
    addresses: tuple[str, ...]
    state: str
    timeout: float = 5.0


@dataclass(frozen=True)
class EndpointRoute:
    """An endpoint. `keys` are all that are accepted; `traffic` maps deployments to percent."""

    name: str
    keys: tuple[str, ...] = field(repr=False)
    kubernetes: bool
    traffic: Mapping[str, int]
    deployments: tuple[DeploymentRoute, ...]


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
        "transport": {"protocol": "http", "keep_alive": {"enabled": False}},
        "request_buffers": _BUFFERED_BYTES,
        "load_balancing": {
            "try_duration": _SECOND_TRIES,
            "try_interval": "20ms",
            # Whatever goes wrong behind an instance is an answer of the inner Caddy. No answer at all means that it was
            # being configured and hasn't touched the request, so that even a POST may be sent again.
            "retry_match": [{"path": ["*"]}],
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
    if upstreams := [{"dial": address} for address in sorted(draining)]:
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
            # Caddy writes Authorization as REDACTED.
            "encoder": {"format": "json"},
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
        {
            "match": [{"not": [{"header": {"Authorization": [f"Bearer {key}" for key in endpoint.keys]}}]}],
            "handle": [
                _error(
                    401,
                    "Unauthorized",
                    "The key is missing, expired or not this endpoint's. Send it as: Authorization: Bearer <key>",
                ),
            ],
        },
        {
            "handle": [
                {"handler": "rewrite", "strip_path_prefix": f"/api/v1/endpoint/{endpoint.name}"},
                {"handler": "headers", "request": {"delete": ["Authorization"]}},
                {
                    "handler": "headers",
                    "response": {"deferred": True, "set": {DEPLOYMENT_HEADER: ["{azureml.deployment}"]}},
                },
            ]
        },
    ]
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


def _one(deployment: DeploymentRoute, kubernetes: bool) -> Json:
    """Requests for one deployment: the instance with the fewest open requests; a restarting one is waited for."""
    if not deployment.addresses:
        message = f"Deployment '{deployment.name}' has no instance that is ready (state: {deployment.state})."
        return _error(503, "ServiceUnavailable", message, {DEPLOYMENT_HEADER: [deployment.name]})
    proxy = _proxy([{"dial": address} for address in deployment.addresses], deployment.timeout, kubernetes)
    proxy["load_balancing"] = {
        "selection_policy": {"policy": "least_conn"},
        "try_duration": _duration(deployment.timeout),
        "try_interval": "100ms",
    }
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
    proxy = _proxy([{"dial": address} for address, _ in pairs], timeout, endpoint.kubernetes)
    # No second try here: it might ask another deployment, and a broken one would go unnoticed.
    proxy["load_balancing"] = {
        "selection_policy": {"policy": "weighted_round_robin", "weights": [weight for _, weight in pairs]}
    }
    return proxy


def _proxy(upstreams: list[Json], timeout: float, kubernetes: bool = True) -> Json:
    # Managed: any answer but 200 is 424, its own status in a header. Kubernetes: run() raised or crashed is 502.
    if kubernetes:
        status, failed = 502, [5]
    else:
        status, failed = 424, [4, 5]
    return {
        "handler": "reverse_proxy",
        "upstreams": upstreams,
        "transport": {
            "protocol": "http",
            # The inference server's workers close after every answer; a connection kept would be a race.
            "keep_alive": {"enabled": False},
            "dial_timeout": "2s",
            "response_header_timeout": _duration(timeout),
        },
        "handle_response": [
            {
                "match": {"status_code": failed},
                "routes": [
                    {
                        "handle": [
                            {
                                "handler": "headers",
                                "response": {
                                    "set": {
                                        "ms-azureml-model-error-statuscode": ["{http.reverse_proxy.status_code}"],
                                        "ms-azureml-model-error-reason": ["{http.reverse_proxy.status_text}"],
                                    }
                                },
                            },
                            {"handler": "copy_response", "status_code": status},
                        ]
                    }
                ],
            }
        ],
    }


def _errors() -> list[Json]:
    """What a client is told when the proxy itself fails: 504 is a time-out, the rest an instance that isn't there."""
    named = {DEPLOYMENT_HEADER: ["{azureml.deployment}"]}
    late = "The model took longer than the deployment's request_timeout_ms."
    gone = "The deployment has no instance that answers; it may be restarting. Its log tells why."
    managed: Json = {"vars": {"compute": ["managed"]}}
    timeout: Json = {"expression": "{http.error.status_code} == 504"}
    failed: Json = {"expression": "{http.error.status_code} in [502, 503]"}
    return [
        {"match": [managed | timeout], "handle": [_error(408, "RequestTimeout", late, named)], "terminal": True},
        {"match": [timeout], "handle": [_error(504, "GatewayTimeout", late, named)], "terminal": True},
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
