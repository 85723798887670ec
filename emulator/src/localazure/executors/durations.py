"""ISO 8601 durations as ARM writes them: `PT15M`, `P1DT2H`."""

from __future__ import annotations

import re

from localazure.core.errors import BadRequest

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")


def seconds(text: str | None, name: str) -> float | None:
    """The duration in seconds, None for none. BadRequest names the property."""
    if not text:
        return None
    match = _DURATION.fullmatch(str(text))
    if match is None or text in ("P", "PT"):
        raise BadRequest(f"{name} must be an ISO 8601 duration such as PT15M, not '{text}'.", name, "UserError")
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
