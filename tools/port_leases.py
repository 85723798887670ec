"""Ports for what tests start: several localazures, routers and Airflows on one machine, none in another's way."""

from __future__ import annotations

import contextlib
import os
import socket

#: Ports of a range: localazure's own, its inference servers', an Airflow's beside it, and the guard.
PORTS = 100
# Below the ports that the kernel hands out by itself, above localazure's default ones.
_BASES: list[int] = list(range(21000, 32000, PORTS))
_guards: list[socket.socket] = []


def lease() -> int:
    """The first port of a range of 100 that nobody uses; the range is this process's until the process ends.

    The last port of the range is its guard: whoever leases the range keeps it bound, so that two processes that look at
    the same moment never choose the same one, whenever they begin to listen. Raises OSError if no range is free.
    """
    # Processes that start at the same moment begin to look at different places.
    first = os.getpid() % len(_BASES)
    for base in _BASES[first:] + _BASES[:first]:
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", base + PORTS - 1))
            for port in range(base, base + PORTS - 1):
                with contextlib.closing(socket.socket()) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            guard.close()
            continue
        _guards.append(guard)
        return base
    raise OSError(f"no range of {PORTS} ports between {_BASES[0]} and {_BASES[-1] + PORTS} is free")
