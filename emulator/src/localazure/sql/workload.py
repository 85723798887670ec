"""Workload groups and classifiers of a dedicated pool: which request counts to which group.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-workload-classification
They say where a request belongs, and a group's time limit ends it; shares of memory and importance change nothing on
one machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

from localazure.sql import errors
from localazure.sql.catalog import Catalog, Setting
from localazure.sql.permissions import RESOURCE_CLASSES
from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.sql.session import Session

_DEFAULT = "smallrc"
_IMPORTANCE = ("LOW", "BELOW_NORMAL", "NORMAL", "ABOVE_NORMAL", "HIGH")
_NEEDED = ("MIN_PERCENTAGE_RESOURCE", "CAP_PERCENTAGE_RESOURCE", "REQUEST_MIN_RESOURCE_GRANT_PERCENT")
# https://learn.microsoft.com/en-us/sql/t-sql/statements/create-workload-classifier-transact-sql#weighting
_WEIGHTS = {"MEMBERNAME": 64, "WLM_LABEL": 16, "WLM_CONTEXT": 8, "START_TIME": 4}
GROUP, CLASSIFIER = "WORKLOAD GROUP", "WORKLOAD CLASSIFIER"


@dataclass(frozen=True)
class Place:
    """Where a request belongs. percent: of the resources; seconds: how long it may run, 0 without end."""

    group: str = _DEFAULT
    classifier: str | None = None
    importance: str = "normal"
    percent: float = 3.0
    seconds: int = 0


def check(catalog: Catalog, kind: str, options: dict[str, str], line: int) -> None:
    """SqlError for options that the vendor refuses."""
    importance = options.get("IMPORTANCE", "NORMAL").upper()
    if importance not in _IMPORTANCE:
        raise errors.syntax(importance, line)
    if kind == CLASSIFIER:
        for needed in ("WORKLOAD_GROUP", "MEMBERNAME"):
            if needed not in options:
                raise errors.syntax(")", line)
        return
    for needed in _NEEDED:
        if needed not in options:
            raise errors.syntax(")", line)
    least, most, grant = (float(options[name]) for name in _NEEDED)
    others = [
        float(found.options.get(_NEEDED[0], "0"))
        for found in catalog.settings.values()
        if found.kind == GROUP and found.options is not options
    ]
    if not 0 <= least <= 100 or not least <= most <= 100 or not 0.75 <= grant <= max(most, 0.75):  # noqa: PLR2004  percents
        raise SqlError(
            errors.UNDOCUMENTED,
            "MIN_PERCENTAGE_RESOURCE, CAP_PERCENTAGE_RESOURCE and REQUEST_MIN_RESOURCE_GRANT_PERCENT must lie between "
            "0 and 100, the first not above the second.",
            line=line,
        )
    if sum(others) + least > 100:  # noqa: PLR2004
        raise SqlError(
            errors.UNDOCUMENTED,
            "The sum of MIN_PERCENTAGE_RESOURCE of all workload groups can't exceed 100.",
            line=line,
        )


def check_drop(catalog: Catalog, kind: str, name: str, line: int) -> None:
    """A group that a classifier leads to stays."""
    if kind != GROUP:
        return
    for setting in catalog.settings.values():
        if setting.kind == CLASSIFIER and setting.options.get("WORKLOAD_GROUP", "").lower() == name.lower():
            raise SqlError(
                errors.UNDOCUMENTED,
                f"Cannot drop workload group '{name}': workload classifier '{setting.name}' refers to it.",
                line=line,
            )


def place(session: Session, label: str | None) -> Place:
    """The group of a request: the classifier with the highest weight decides."""
    catalog = session.pool.catalog
    best: tuple[int, int, Setting] | None = None
    for setting in catalog.settings.values():
        if setting.kind != CLASSIFIER:
            continue
        weight = _weight(session, setting.options, label)
        if weight and (best is None or (weight, setting.object_id) > best[:2]):
            best = (weight, setting.object_id, setting)
    if best is None:
        return Place(_resource_class(session))
    chosen = best[2]
    name = chosen.options["WORKLOAD_GROUP"]
    group = catalog.setting(GROUP, name)
    options = group.options if group is not None else {}
    importance = chosen.options.get("IMPORTANCE", options.get("IMPORTANCE", "NORMAL")).lower()
    return Place(
        name,
        chosen.name,
        importance,
        float(options.get("REQUEST_MIN_RESOURCE_GRANT_PERCENT", "3")),
        int(options.get("QUERY_EXECUTION_TIMEOUT_SEC", "0")),
    )


def _names(session: Session) -> set[str]:
    """What a classifier may call the session: its log-in, its user, the roles of that."""
    access = session.access()
    if access is None:
        return {session.login.lower(), "dbo", "public"}
    return {session.login.lower(), *(access.directory.by_id[number].name.lower() for number in access.ids)}


def _resource_class(session: Session) -> str:
    """That of the role that the session's user is in; static ones outweigh dynamic ones, larger ones smaller ones.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/resource-classes-for-workload-management
    """
    access = session.access()
    numbers = {role.principal_id: name for name, role in RESOURCE_CLASSES.items()}
    held = [] if access is None else [number for number in numbers if number in access.ids]
    return numbers[max(held)] if held else _DEFAULT


def _weight(session: Session, options: dict[str, str], label: str | None) -> int:
    """0 when a classifier doesn't fit the request."""
    if options["MEMBERNAME"].lower() not in _names(session):
        return 0
    total = _WEIGHTS["MEMBERNAME"]
    for key, given in (("WLM_LABEL", label), ("WLM_CONTEXT", session.context_values.get("wlm_context"))):
        wanted = options.get(key)
        if wanted is not None:
            if given is None or str(given).lower() != wanted.lower():
                return 0
            total += _WEIGHTS[key]
    if "START_TIME" in options:
        begin, end = (time.fromisoformat(options.get(key, "00:00")) for key in ("START_TIME", "END_TIME"))
        now = datetime.now(UTC).time()
        inside = begin <= now < end if begin <= end else now >= begin or now < end
        if not inside:
            return 0
        total += _WEIGHTS["START_TIME"]
    return total
