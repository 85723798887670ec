"""CREATE, ALTER and DROP of users and roles, their members, GRANT, DENY, REVOKE and owners of schemas.

https://learn.microsoft.com/en-us/sql/t-sql/statements/create-user-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/statements/alter-role-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/statements/permissions-grant-deny-revoke-azure-sql-data-warehouse-parallel-data-warehouse
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from localazure.sql import errors, logins
from localazure.sql import syntax as s
from localazure.sql.authority import directory_of, missing, no_permission
from localazure.sql.catalog import CatalogObject, Change, Procedure, Setting, Table, View, now
from localazure.sql.permissions import (
    CLASSES,
    CREDENTIAL,
    DATABASE,
    OBJECT,
    OF_CLASS,
    OF_SERVER,
    ON_COLUMNS,
    ON_ROWS,
    PRINCIPAL,
    SCHEMA,
)
from localazure.sql.principals import (
    DBO,
    GUEST,
    MEMBER,
    OWNER,
    PUBLIC,
    ROLE,
    USER,
    Directory,
    Entry,
    Principal,
    reserved,
)
from localazure.sql.results import SqlError
from localazure.sql.table_parts import frame_of

if TYPE_CHECKING:
    from localazure.sql.session import Session

_SCHEMAS_OF_SYSTEM = 4


def define_principal(session: Session, statement: s.PrincipalDefinition) -> None:
    if statement.kind == "LOGIN":
        logins.define(session, statement)
        return
    handlers: dict[tuple[str, str], Callable[[Session, s.PrincipalDefinition], None]] = {
        ("CREATE", USER): _create_user,
        ("CREATE", ROLE): _create_role,
        ("ALTER", USER): _alter_user,
        ("ALTER", ROLE): _rename_role,
        ("DROP", USER): _drop,
        ("DROP", ROLE): _drop,
    }
    handlers[statement.action, statement.kind](session, statement)


def _create_user(session: Session, statement: s.PrincipalDefinition) -> None:
    name, line, pool = statement.name, statement.line, session.pool
    _needs(session, "ALTER ANY USER", line)
    known = directory_of(pool)
    options = statement.options
    _is_free(known, name, line)
    kind, login = "SQL", options.get("LOGIN", name)
    if "EXTERNAL" in options:
        kind = "EXTERNAL"
    elif "WITHOUT LOGIN" in options:
        kind, login = "NONE", ""
    if kind == "SQL":
        found = logins.find(pool.master_pool, login)
        if found is None:
            raise SqlError(15007, f"'{login}' is not a valid login or you do not have permission.", line=line)
        login, kind = found.name, "EXTERNAL" if "EXTERNAL" in found.options else "SQL"
    if login and any(p.login.lower() == login.lower() and p.kind == kind for p in known.by_id.values()):
        raise SqlError(15063, "The login already has an account under a different user name.", line=line)
    stamp = now()
    kept = {"KIND": kind, "LOGIN": login, "SCHEMA": options.get("DEFAULT_SCHEMA", "dbo")}
    kept |= {"CREATED": stamp, "MODIFIED": stamp}
    number = known.next_id()
    with pool.catalog.change(session.cursor) as change:
        change.put_setting(Setting(USER, name, kept, number))
        change.put_setting(Entry(DATABASE, 0, "", number, "CONNECT", "GRANT").setting)


def _create_role(session: Session, statement: s.PrincipalDefinition) -> None:
    name, line, pool = statement.name, statement.line, session.pool
    access = session.access()
    if access is not None and not access.on_database("CREATE ROLE"):
        raise no_permission(line)
    known = directory_of(pool)
    _is_free(known, name, line)
    owner = _principal(known, statement.options.get("AUTHORIZATION", "dbo"), line)
    if owner.principal_id == DBO and access is not None and "AUTHORIZATION" not in statement.options:
        owner = known.by_id[access.user_id]
    stamp = now()
    options = {"OWNER": str(owner.principal_id), "CREATED": stamp, "MODIFIED": stamp}
    with pool.catalog.change(session.cursor) as change:
        change.put_setting(Setting(ROLE, name, options, known.next_id()))


def _is_free(known: Directory, name: str, line: int) -> None:
    if known.find(name) is not None or reserved(name):
        raise SqlError(
            15023, f"User, group, or role '{name}' already exists in the current database.", line=line
        )  # fmt: skip


def _existing(session: Session, statement: s.PrincipalDefinition) -> tuple[Principal, Setting] | None:
    """The user or role that a statement names; None for DROP .. IF EXISTS of nobody."""
    known, name, line = directory_of(session.pool), statement.name, statement.line
    word, verb = statement.kind.lower(), statement.action.lower()
    found = known.find(name)
    if found is not None and (found.fixed or found.principal_id in {PUBLIC, DBO, GUEST}):
        raise SqlError(15150, f"Cannot {verb} the {word} '{name}'.", line=line)
    setting = session.pool.catalog.setting(statement.kind, name)
    if found is None or setting is None:
        if statement.if_exists:
            return None
        raise missing(f"Cannot {verb} the {word} '{name}'", line)
    access = session.access()
    permission = "ALTER ANY USER" if statement.kind == USER else "ALTER ANY ROLE"
    if access is not None and not access.on_database(permission):
        own = found.is_role and found.owner in access.ids
        if not own and not access.allows("ALTER", PRINCIPAL, found.principal_id):
            raise missing(f"Cannot {verb} the {word} '{name}'", line)
    return found, setting


def _alter_user(session: Session, statement: s.PrincipalDefinition) -> None:
    existing = _existing(session, statement)
    assert existing is not None
    _, setting = existing
    pool, line = session.pool, statement.line
    options = {**setting.options, "MODIFIED": now()}
    if "DEFAULT_SCHEMA" in statement.options:
        options["SCHEMA"] = statement.options["DEFAULT_SCHEMA"]
    if "LOGIN" in statement.options:
        found = logins.find(pool.master_pool, statement.options["LOGIN"])
        if found is None or setting.options["KIND"] == "EXTERNAL":
            raise SqlError(
                15007, f"'{statement.options['LOGIN']}' is not a valid login or you do not have permission.", line=line
            )
        options |= {"LOGIN": found.name, "KIND": "SQL"}
    _rename(session, setting, options, statement.options.get("NAME", setting.name), line)


def _rename_role(session: Session, statement: s.PrincipalDefinition) -> None:
    existing = _existing(session, statement)
    assert existing is not None
    _, setting = existing
    options = {**setting.options, "MODIFIED": now()}
    _rename(session, setting, options, statement.options["NAME"], statement.line)


def _rename(session: Session, setting: Setting, options: dict[str, str], name: str, line: int) -> None:
    if name.lower() != setting.name.lower():
        _is_free(directory_of(session.pool), name, line)
    with session.pool.catalog.change(session.cursor) as change:
        change.remove_setting(setting)
        change.put_setting(Setting(setting.kind, name, options, setting.object_id))


def _drop(session: Session, statement: s.PrincipalDefinition) -> None:
    existing = _existing(session, statement)
    if existing is None:
        return
    found, setting = existing
    known, number, line = directory_of(session.pool), found.principal_id, statement.line
    if known.owned(number):
        raise SqlError(15138, "The database principal owns a schema in the database, and cannot be dropped.", line=line)
    if any(role.is_role and role.owner == number for role in known.by_id.values()):
        raise SqlError(
            15421, "The database principal owns a database role and cannot be dropped.", line=line
        )  # fmt: skip
    if found.is_role and known.members(number):
        raise SqlError(15144, "The role has members. It must be empty before it can be dropped.", line=line)
    with session.pool.catalog.change(session.cursor) as change:
        change.remove_setting(setting)
        for role in known.roles_of.get(number, ()):
            change.remove_setting(Setting(MEMBER, f"{role}:{number}"))
        for entry in known.entries:
            if entry.grantee == number or (entry.kind == PRINCIPAL and entry.major == number):
                change.remove_setting(entry.setting)


# ---- members --------


def change_member(session: Session, statement: s.RoleMember) -> None:
    """ALTER ROLE .. ADD or DROP MEMBER, sp_addrolemember and sp_droprolemember."""
    line, pool = statement.line, session.pool
    if statement.server:
        logins.server_role(session, statement)
        return
    known = directory_of(pool)
    role, member = known.find(statement.role), known.find(statement.member)
    if role is not None and role.principal_id == PUBLIC:
        raise SqlError(15081, "Membership of the public role cannot be changed.", line=line)
    if role is None or not role.is_role or not _may_alter(session, role):
        raise missing(f"Cannot alter the role '{statement.role}'", line)
    if member is None:
        verb = "add" if statement.add else "drop"
        raise missing(f"Cannot {verb} the principal '{statement.member}'", line)
    if member.principal_id in {PUBLIC, DBO} or member.fixed:
        raise SqlError(15405, f"Cannot use the special principal '{member.name}'.", line=line)
    setting = Setting(MEMBER, f"{role.principal_id}:{member.principal_id}")
    if not statement.add:
        if role.principal_id not in known.roles_of.get(member.principal_id, ()):
            raise missing(f"Cannot drop the principal '{statement.member}'", line)
        with pool.catalog.change(session.cursor) as change:
            change.remove_setting(setting)
        return
    if member.principal_id == role.principal_id or member.principal_id in known.all_roles(role.principal_id):
        raise SqlError(15413, "Cannot make a role a member of itself.", line=line)
    with pool.catalog.change(session.cursor) as change:
        change.put_setting(setting)


def _may_alter(session: Session, role: Principal) -> bool:
    """Fixed roles' members are changed by db_owner alone, as the vendor has it."""
    access = session.access()
    if access is None or access.on_database("CONTROL"):
        return True
    if role.fixed:
        return False
    return (
        access.on_database("ALTER ANY ROLE")
        or role.owner in access.ids
        or access.allows("ALTER", PRINCIPAL, role.principal_id)
    )


# ---- permissions --------


class _Securable(NamedTuple):
    """shown: the beginning of what a user reads who may not grant anything on it."""

    kind: int
    major: int
    schema: str
    entry: CatalogObject | None
    shown: str


def change_permissions(session: Session, statement: s.Permission) -> None:
    """GRANT, DENY and REVOKE."""
    known, line = directory_of(session.pool), statement.line
    if not statement.securable_class and all(name in OF_SERVER for name, _ in statement.permissions):
        logins.change_server_permissions(session, statement)
        return
    securable = _securable(session, known, statement)
    wanted: list[tuple[str, list[str]]] = []
    for name, columns in statement.permissions:
        wanted += [(each, [*columns, *statement.columns]) for each in _spelled_out(name, securable)]
    for name, columns in wanted:
        _check_permission(securable, name, columns, line)
    access = session.access()
    entries: list[Entry] = []
    for grantee_name in statement.principals:
        grantee = _grantee(session, known, grantee_name, statement)
        for name, columns in wanted:
            if access is not None and not access.may_grant(name, securable.kind, securable.major, securable.schema):
                raise missing(securable.shown, line)
            state = "DENY" if statement.verb == "DENY" else "WITH GRANT" if statement.grant_option else "GRANT"
            grantor = DBO if access is None else access.user_id
            for minor in columns or [""]:
                entries.append(
                    Entry(securable.kind, securable.major, minor.lower(), grantee.principal_id, name, state, grantor)
                )
    with session.pool.catalog.change(session.cursor) as change:
        for entry in entries:
            _write(change, known, entry, statement)


def _write(change: Change, known: Directory, entry: Entry, statement: s.Permission) -> None:
    """One entry in or out. DENY and REVOKE with CASCADE also take what the grantee handed on."""
    old = next((each for each in known.entries if each.name == entry.name), None)
    handed_on = [
        each
        for each in known.entries
        if each.grantor == entry.grantee != DBO
        and (each.kind, each.major, each.permission, each.minor)
        == (entry.kind, entry.major, entry.permission, entry.minor)
    ]
    if statement.verb != "GRANT" and old is not None and old.state == "WITH GRANT":
        if handed_on and not statement.cascade:
            raise SqlError(
                4611,
                "To revoke or deny grantable privileges, specify the CASCADE option.",
                line=statement.line,
            )
        for each in handed_on:
            change.remove_setting(each.setting)
    if statement.only_option:
        if old is not None and old.state == "WITH GRANT":
            change.put_setting(replace(old, state="GRANT").setting)
        return
    if statement.verb == "REVOKE":
        if old is not None:
            change.remove_setting(old.setting)
        return
    if not entry.minor:  # what is said of the whole outweighs what was said of its columns
        for each in known.entries:
            same = (each.kind, each.major, each.grantee, each.permission)
            if each.minor and same == (entry.kind, entry.major, entry.grantee, entry.permission):
                change.remove_setting(each.setting)
    change.put_setting(entry.setting)


def _spelled_out(name: str, securable: _Securable) -> list[str]:
    """ALL means the permissions of the standard that go with the securable."""
    if name == "EXEC":
        return ["EXECUTE"]
    if name not in {"ALL", "ALL PRIVILEGES"}:
        return [name]
    if securable.kind == DATABASE:
        return ["BACKUP DATABASE", "CREATE FUNCTION", "CREATE PROCEDURE", "CREATE TABLE", "CREATE VIEW"]
    return ["EXECUTE"] if isinstance(securable.entry, Procedure) else list(ON_ROWS)


def _check_permission(securable: _Securable, name: str, columns: list[str], line: int) -> None:
    known = any(name in names for names in OF_CLASS.values())
    if not known and name not in OF_SERVER:
        raise errors.syntax(name, line)
    if name not in OF_CLASS[securable.kind]:
        raise SqlError(4606, f"Granted or revoked privilege {name} is not compatible with object.", line=line)
    if isinstance(securable.entry, Procedure) and name in ON_ROWS[:4]:
        raise SqlError(4606, f"Granted or revoked privilege {name} is not compatible with object.", line=line)
    if isinstance(securable.entry, Table | View) and name == "EXECUTE":
        raise SqlError(4606, f"Granted or revoked privilege {name} is not compatible with object.", line=line)
    if not columns:
        return
    if securable.kind != OBJECT or name not in ON_COLUMNS:
        raise SqlError(
            1020,
            "Sub-entity lists (such as column or security expressions) cannot be specified for entity-level "
            "permissions.",
            line=line,
        )
    entry = securable.entry
    names = (
        [column.name for column in entry.columns] if isinstance(entry, Table) else list(getattr(entry, "columns", ()))
    )
    for column in columns:
        if column.lower() not in {each.lower() for each in names}:
            raise SqlError(1911, f"Column name '{column}' does not exist in the target table or view.", line=line)


def _securable(session: Session, known: Directory, statement: s.Permission) -> _Securable:
    kind, parts, line = statement.securable_class, statement.securable, statement.line
    catalog, name = session.pool.catalog, ".".join(parts)
    if kind in {"", "DATABASE"}:
        if name and name.lower() != session.database.lower():
            raise missing(f"Cannot find the database '{name}'", line)
        return _Securable(DATABASE, 0, "", None, f"Cannot find the database '{session.database}'")
    if kind == "SCHEMA":
        found = catalog.schemas.get(name.lower())
        if found is None:
            raise missing(f"Cannot find the schema '{name}'", line)
        return _Securable(SCHEMA, found[1], found[0], None, f"Cannot find the schema '{name}'")
    if kind in {"USER", "ROLE"}:
        principal = known.find(name)
        if principal is None or principal.is_role != (kind == "ROLE"):
            raise missing(f"Cannot find the {kind.lower()} '{name}'", line)
        return _Securable(PRINCIPAL, principal.principal_id, "", None, f"Cannot find the {kind.lower()} '{name}'")
    if kind == "DATABASE SCOPED CREDENTIAL":
        setting = catalog.setting(kind, name)
        if setting is None:
            raise missing(f"Cannot find the CREDENTIAL '{name}'", line)
        return _Securable(CREDENTIAL, setting.object_id, "", None, f"Cannot find the CREDENTIAL '{name}'")
    if kind not in CLASSES:
        raise errors.not_implemented(f"{statement.verb} ON {kind}", line)
    entry = session.context(frame_of()).find(parts, line)
    if entry is None or (isinstance(entry, Table) and entry.temporary):
        raise missing(f"Cannot find the object '{parts[-1]}'", line)
    return _Securable(OBJECT, entry.object_id, entry.schema, entry, f"Cannot find the object '{parts[-1]}'")


def _grantee(session: Session, known: Directory, name: str, statement: s.Permission) -> Principal:
    found, line = known.find(name), statement.line
    if found is None:
        raise missing(f"Cannot find the user '{name}'", line)
    if found.fixed and found.principal_id != PUBLIC:
        raise SqlError(4617, "Cannot grant, deny or revoke permissions to or from special roles.", line=line)
    access = session.access()
    if found.principal_id == DBO or (access is not None and access.user_id == found.principal_id):
        raise SqlError(
            4624,
            "Cannot grant, deny, or revoke permissions to sa, dbo, entity owner, information_schema, sys, or yourself.",
            line=line,
        )
    return found


# ---- owners --------


def authorize(session: Session, statement: s.Authorization) -> None:
    """https://learn.microsoft.com/en-us/sql/t-sql/statements/alter-authorization-transact-sql"""
    line, catalog = statement.line, session.pool.catalog
    if statement.securable_class != "SCHEMA" or statement.owner is None:
        raise errors.not_implemented(f"ALTER AUTHORIZATION ON {statement.securable_class}", line)
    name = statement.securable[-1]
    schema = catalog.schemas.get(name.lower())
    access = session.access()
    if schema is None or not (access is None or access.on_schema("TAKE OWNERSHIP", name)):
        raise missing(f"Cannot find the schema '{name}'", line)
    if schema[1] <= _SCHEMAS_OF_SYSTEM:
        raise SqlError(15150, f"Cannot alter the schema '{name}'.", line=line)
    owner = owner_of(session, statement.owner, line)
    with catalog.change(session.cursor) as change:
        forget(change, directory_of(session.pool), SCHEMA, schema[1])
        own_schema(change, schema[0], owner)


def owner_of(session: Session, name: str | None, line: int) -> int:
    """Whom AUTHORIZATION names, that the session's user may make an owner; without a name the user itself, or dbo."""
    known, access = directory_of(session.pool), session.access()
    if name is None:
        return DBO if access is None else access.user_id
    found = _principal(known, name, line)
    if access is not None and found.principal_id not in access.ids and not access.on_database("CONTROL"):
        raise missing(f"Cannot find the user '{name}'", line)
    return found.principal_id


def own_schema(change: Change, schema: str, owner: int) -> None:
    setting = Setting(OWNER, schema, {"ID": str(owner)})
    if owner == DBO:
        change.remove_setting(setting)
    else:
        change.put_setting(setting)


def forget(change: Change, known: Directory, kind: int, major: int) -> None:
    """What was granted on something that is no more, or that changes its owner."""
    for entry in known.entries:
        if entry.kind == kind and entry.major == major:
            change.remove_setting(entry.setting)


def rename_column(change: Change, known: Directory, object_id: int, old: str, new: str) -> None:
    """A column's permissions follow its name."""
    for entry in known.entries:
        if (entry.kind, entry.major, entry.minor) == (OBJECT, object_id, old.lower()):
            change.remove_setting(entry.setting)
            change.put_setting(replace(entry, minor=new.lower()).setting)


def _principal(known: Directory, name: str, line: int) -> Principal:
    found = known.find(name)
    if found is None:
        raise missing(f"Cannot find the user '{name}'", line)
    return found


def _needs(session: Session, permission: str, line: int) -> None:
    access = session.access()
    if access is not None and not access.on_database(permission):
        raise no_permission(line)
