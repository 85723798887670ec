"""An online endpoint for people: what Azure ML studio would show, as one page without scripts. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from localazure.serving.routing import ASK_AGAIN

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1b1b}
h1{font-size:1.3rem}table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{padding:.3rem .8rem .3rem 0;text-align:left;border-bottom:1px solid #e3e5e9}th{color:#667;font-weight:500}
.bar{background:#e8edf5;width:12rem;height:.8rem}.bar div{background:#3b6fb6;height:100%}
.Succeeded{color:#1a7f37}.Failed{color:#b3261e}code{background:#f5f6f8;padding:.1rem .3rem}.note{color:#667}
"""
_FAILED_FROM = 400


@dataclass(frozen=True)
class Usage:
    """What the access log says of one deployment's latest requests. Times in milliseconds."""

    requests: int
    failed: int
    p50_ms: float
    p95_ms: float


def usage(lines: Iterable[str]) -> dict[str, Usage]:
    """By deployment, from lines of Caddy's access log; a request that reached no deployment stands under ""."""
    seen: dict[str, list[tuple[bool, float]]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            status, milliseconds = int(entry["status"]), float(entry["duration"]) * 1000
        except (ValueError, KeyError, TypeError):
            continue  # the first line of a tail may be cut
        if status != ASK_AGAIN:
            seen.setdefault(str(entry.get("deployment") or ""), []).append((status >= _FAILED_FROM, milliseconds))
    return {name: _of(requests) for name, requests in seen.items()}


def endpoint_page(
    endpoint: Mapping[str, Any], deployments: Sequence[Mapping[str, Any]], used: Mapping[str, Usage]
) -> str:
    """The page of an endpoint; it reloads itself."""
    properties = endpoint["properties"]
    facts = {
        "Scoring URI": properties["scoringUri"],
        "State": properties["provisioningState"],
        "Compute": str(properties.get("compute") or "managed").rpartition("/")[2],
        "Description": properties.get("description"),
    }
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in facts.items() if value
    )
    head = "<tr><th>Deployment<th>Traffic<th><th>State<th>Model<th>Requests<th>Failed<th>p50<th>p95</tr>"
    table = "".join(_row(each, properties["traffic"], used.get(each["name"])) for each in deployments)
    name = escape(endpoint["name"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="refresh" content="3"><style>{_STYLE}</style></head><body><h1>Online endpoint {name}</h1>'
        f"<table>{rows}</table><table>{head}{table}</table>"
        '<p class="note">Requests: the latest in the access log. Logs: <code>az ml online-deployment get-logs</code>, '
        "or the SDK's <code>online_deployments.get_logs</code>.</p></body></html>"
    )


def _row(deployment: Mapping[str, Any], traffic: Mapping[str, int], used: Usage | None) -> str:
    share = int(traffic.get(deployment["name"], 0))
    state = str(deployment["properties"]["provisioningState"])
    model = str(deployment["properties"].get("model") or "")
    shown = "/".join(model.split("/")[-3::2]) if "/versions/" in model else model
    numbers = (
        [used.requests, used.failed, f"{used.p50_ms:.0f} ms", f"{used.p95_ms:.0f} ms"] if used else ["", "", "", ""]
    )
    cells = "".join(f"<td>{escape(str(number))}</td>" for number in numbers)
    return (
        f'<tr><td>{escape(deployment["name"])}</td><td><div class="bar"><div style="width:{share}%"></div></div></td>'
        f'<td>{share} %</td><td class="{escape(state)}">{escape(state)}</td><td>{escape(shown)}</td>{cells}</tr>'
    )


def _of(requests: list[tuple[bool, float]]) -> Usage:
    times = sorted(milliseconds for _, milliseconds in requests)
    middle, high = (times[max(0, math.ceil(portion * len(times)) - 1)] for portion in (0.5, 0.95))
    return Usage(len(requests), sum(failed for failed, _ in requests), middle, high)
