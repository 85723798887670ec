"""The endpoint's page, as a value."""

from __future__ import annotations

import json

from localazure.serving.pages import Usage, endpoint_page, usage


def line(deployment: str, status: int, seconds: float) -> str:
    return json.dumps({"status": status, "duration": seconds, "deployment": deployment})


def test_usage() -> None:
    lines = ["...cut off", *[line("blue", 200, 0.01)] * 18, line("blue", 502, 0.5), line("blue", 200, 0.02)]
    lines += [line("", 401, 0.001), "{}"]
    found = usage(lines)
    assert found["blue"] == Usage(20, 1, 10.0, 20.0)
    assert found[""].failed == 1
    assert usage([]) == {}


def test_the_page_shows_traffic_and_escapes_what_people_wrote() -> None:
    endpoint = {
        "name": "flights",
        "properties": {
            "scoringUri": "https://localhost/score",
            "provisioningState": "Succeeded",
            "traffic": {"blue": 90},
            "description": "<script>alert(1)</script>",
        },
    }
    model = "/subscriptions/s/models/flight_delay/versions/3"
    deployments = [
        {"name": name, "properties": {"provisioningState": state, "model": model}}
        for name, state in (("blue", "Succeeded"), ("green", "Failed"))
    ]
    page = endpoint_page(endpoint, deployments, {"blue": Usage(20, 1, 10, 20)})
    assert "width:90%" in page
    assert "<td>90 %</td>" in page
    assert "flight_delay/3" in page
    assert '<td class="Failed">Failed</td>' in page
    assert "<td>20</td><td>1</td><td>10 ms</td><td>20 ms</td>" in page
    assert "<script>" not in page
