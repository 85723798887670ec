"""Catalogue views of log-ins, users, roles and permissions, and sys.fn_my_permissions.

https://learn.microsoft.com/en-us/sql/relational-databases/system-catalog-views/security-catalog-views-transact-sql
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from localazure.sql import logins
from localazure.sql.authority import directory_of
from localazure.sql.catalog import Setting, Table, View
from localazure.sql.catalog_rows import moment
from localazure.sql.permissions import CLASS_NAMES, CODES
from localazure.sql.principals import DBO, LOGIN, PUBLIC, Directory, Entry, Principal
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.session import Session

Rows = Iterable[tuple[Any, ...]]
_SYSADMIN = 3
_MADE = "2024-01-01T00:00:00.000"
_KINDS = {
    "ROLE": ("R", "DATABASE_ROLE", 0, "NONE"),
    "SQL": ("S", "SQL_USER", 1, "INSTANCE"),
    "NONE": ("S", "SQL_USER", 0, "NONE"),
    "EXTERNAL": ("E", "EXTERNAL_USER", 4, "EXTERNAL"),
}
_STATES = {"GRANT": ("G", "GRANT"), "DENY": ("D", "DENY"), "WITH GRANT": ("W", "GRANT_WITH_GRANT_OPTION")}


def _visible(session: Session) -> tuple[Directory, Callable[[int], bool]]:
    """Everybody sees roles, the system's users and themselves; the others take VIEW DEFINITION or ALTER ANY USER."""
    known, access = directory_of(session.pool), session.access()
    if access is None or access.on_database("VIEW DEFINITION") or access.on_database("ALTER ANY USER"):
        return known, lambda number: True
    own = access.ids
    return known, lambda number: number in own or number <= DBO or known.by_id[number].is_role


def _principals(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "name sysname, principal_id int, type char(1), type_desc nvarchar(60), default_schema_name sysname, "
        "create_date datetime, modify_date datetime, owning_principal_id int, sid varbinary(85), is_fixed_role bit, "
        "authentication_type int, authentication_type_desc nvarchar(60)"
    )
    known, visible = _visible(session)
    return spec, [_principal(p) for number, p in sorted(known.by_id.items()) if visible(number)]


def _principal(principal: Principal) -> tuple[Any, ...]:
    code, description, authentication, shown = _KINDS[principal.kind]
    role = principal.is_role
    return (
        principal.name,
        principal.principal_id,
        code,
        description,
        None if role else principal.schema,
        moment(principal.created or _MADE),
        moment(principal.modified or _MADE),
        principal.owner if role else None,
        None,
        principal.fixed and principal.principal_id != PUBLIC,
        authentication,
        shown,
    )


def _members(session: Session) -> tuple[Spec, Rows]:
    known, visible = _visible(session)
    return declare("role_principal_id int, member_principal_id int"), sorted(
        (role, member)
        for member, roles in known.roles_of.items()
        for role in roles
        if member in known.by_id and visible(member)
    )


def _permissions(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "class tinyint, class_desc nvarchar(60), major_id int, minor_id int, grantee_principal_id int, "
        "grantor_principal_id int, type char(4), permission_name nvarchar(128), state char(1), "
        "state_desc nvarchar(60)"
    )
    known, visible = _visible(session)
    return spec, [
        (
            entry.kind, CLASS_NAMES[entry.kind], entry.major, _column_id(session, entry), entry.grantee, entry.grantor,
            CODES[entry.permission].ljust(4), entry.permission, *_STATES[entry.state],
        )
        for entry in known.entries
        if visible(entry.grantee)
    ]  # fmt: skip


def _column_id(session: Session, entry: Entry) -> int:
    found = session.pool.catalog.by_id(entry.major) if entry.minor else None
    names: list[str] = []
    if isinstance(found, Table):
        names = [column.name.lower() for column in found.columns]
    elif isinstance(found, View):
        names = [name.lower() for name in found.columns]
    return names.index(entry.minor) + 1 if entry.minor in names else 0


_SERVER_PRINCIPALS = (
    "name sysname, principal_id int, sid varbinary(85), type char(1), type_desc nvarchar(60), is_disabled bit, "
    "create_date datetime, modify_date datetime, default_database_name sysname, default_language_name sysname, "
    "credential_id int"
)


def _own_logins(session: Session) -> list[Setting]:
    everything, own = session.access() is None, session.identity.name.lower()
    found = [setting for setting in session.pool.master_pool.catalog.settings.values() if setting.kind == LOGIN]
    return [setting for setting in found if everything or setting.name.lower() == own]


def _logins(session: Session, *, passwords_only: bool) -> Iterator[tuple[Any, ...]]:
    """Who isn't the administrator sees its own log-in."""
    made = moment(_MADE)
    name = session.pool.settings.sql_login
    if session.access() is None:
        yield name, 1, b"\x01", "S", "SQL_LOGIN", False, made, made, "master", "us_english", None
    for setting in _own_logins(session):
        if passwords_only and "HASH" not in setting.options:
            continue
        o = setting.options
        kind = ("E", "EXTERNAL_LOGIN") if "EXTERNAL" in o else ("S", "SQL_LOGIN")
        yield (
            setting.name, setting.object_id, bytes.fromhex(o["SID"]), *kind, "DISABLED" in o, moment(o["CREATED"]),
            moment(o["MODIFIED"]), "master", "us_english", None,
        )  # fmt: skip


def _server_principals(session: Session) -> tuple[Spec, Rows]:
    made = moment(_MADE)
    role = logins.SYSADMIN, _SYSADMIN, None, "R", "SERVER_ROLE", False, made, made, None, None, None
    return declare(_SERVER_PRINCIPALS), [*_logins(session, passwords_only=False), role]


def _sql_logins(session: Session) -> tuple[Spec, Rows]:
    """password_hash is NULL: it never leaves the catalogue."""
    spec = declare(
        _SERVER_PRINCIPALS + ", is_policy_checked bit, is_expiration_checked bit, password_hash varbinary(256)"
    )
    return spec, [(*row, True, False, None) for row in _logins(session, passwords_only=True)]


def _server_permissions(session: Session) -> tuple[Spec, Rows]:
    spec = declare(
        "class tinyint, class_desc nvarchar(60), major_id int, minor_id int, grantee_principal_id int, "
        "grantor_principal_id int, permission_name nvarchar(128), state char(1), state_desc nvarchar(60)"
    )
    return spec, [
        (100, "SERVER", 0, 0, setting.object_id, 1, permission, "G", "GRANT")
        for setting in _own_logins(session)
        for permission in ("CONNECT SQL", *filter(None, setting.options.get("GRANTED", "").split(",")))
    ]


def _server_members(session: Session) -> tuple[Spec, Rows]:
    """sysadmin, of which the administrator is a member."""
    master = session.pool.master_pool
    members = [1] if session.access() is None else []
    for setting in _own_logins(session):
        if logins.is_member(master, setting.name):
            members.append(setting.object_id)
    return declare("role_principal_id int, member_principal_id int"), [(_SYSADMIN, number) for number in members]


VIEWS: dict[str, Callable[[Session], tuple[Spec, Rows]]] = {
    "sys.database_principals": _principals,
    "sys.database_role_members": _members,
    "sys.database_permissions": _permissions,
    "sys.server_principals": _server_principals,
    "sys.server_permissions": _server_permissions,
    "sys.server_role_members": _server_members,
    "sys.sql_logins": _sql_logins,
}
