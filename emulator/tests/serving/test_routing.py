"""The router's configuration, as a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localazure.serving.routing import DeploymentRoute, EndpointRoute, Site, configuration, front, weights

SITE = Site(
    "127.0.0.1:1",
    "127.0.0.1:3",
    "127.0.0.1:2",
    "http://secret.invalid",
    Path("c.pem"),
    Path("k.pem"),
    Path("/r"),
    Path("/l"),
)


@pytest.mark.parametrize(
    ("traffic", "instances", "expected"),
    [
        ({"blue": 90, "green": 10}, {"blue": ("a",), "green": ("b",)}, [("a", 9), ("b", 1)]),
        ({"blue": 50, "green": 50}, {"blue": ("a",), "green": ("b",)}, [("a", 1), ("b", 1)]),
        # Three instances of one and one of the other: the split by deployment stays 90 to 10.
        (
            {"blue": 90, "green": 10},
            {"blue": ("a", "b", "c"), "green": ("d",)},
            [("a", 3), ("b", 3), ("c", 3), ("d", 1)],
        ),
        ({"blue": 33, "green": 67}, {"blue": ("a", "b"), "green": ("c",)}, [("a", 33), ("b", 33), ("c", 134)]),
        ({"blue": 100, "green": 0}, {"blue": ("a",), "green": ("b",)}, [("a", 1)]),
        ({"blue": 0}, {"blue": ("a",)}, []),
        ({}, {"blue": ("a",)}, []),
        # A deployment without instances can't take its share.
        ({"blue": 90, "green": 10}, {"blue": ("a",), "green": ()}, [("a", 1)]),
    ],
)
def test_weights(
    traffic: dict[str, int], instances: dict[str, tuple[str, ...]], expected: list[tuple[str, int]]
) -> None:
    assert weights(traffic, instances) == expected


def test_configuration_is_the_same_for_the_same_state() -> None:
    blue, green = DeploymentRoute("blue", ("h:1",), "Succeeded"), DeploymentRoute("green", ("h:2",), "Succeeded")
    one = EndpointRoute("one", ("k" * 20,), True, {"blue": 100}, (blue, green))
    two = EndpointRoute("two", ("k" * 20,), False, {}, ())
    assert json.dumps(configuration(SITE, [two, one])) == json.dumps(configuration(SITE, [one, two]))


def test_the_router_stays_on_the_loopback_interface_and_saves_nothing_elsewhere() -> None:
    inner, outer = configuration(SITE, []), front(SITE)
    assert inner["apps"]["http"]["servers"]["scoring"]["listen"] == ["127.0.0.1:3"]
    assert outer["apps"]["http"]["servers"]["front"]["listen"] == ["127.0.0.1:1"]
    assert inner["admin"]["enforce_origin"]
    assert inner["admin"]["config"] == {"persist": False}
    assert outer["admin"] == {"disabled": True}


def test_keys_are_not_shown_by_repr() -> None:
    assert "secret" not in repr(SITE)
    assert "topsecretkey" not in repr(EndpointRoute("e", ("topsecretkey",), True, {}, ()))
