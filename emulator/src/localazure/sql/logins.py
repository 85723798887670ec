"""Log-ins of a server: kept in its master database, each with a salted hash of its password.

https://learn.microsoft.com/en-us/sql/t-sql/statements/create-login-transact-sql
https://learn.microsoft.com/en-us/sql/relational-databases/security/password-policy
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.catalog import Setting, now
from localazure.sql.principals import LOGIN, Identity
from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.sql.pool import Pool
    from localazure.sql.session import Session

# https://datatracker.ietf.org/doc/html/rfc7914#section-2: 16 MiB and some 50 ms a try
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
_HASHING = threading.BoundedSemaphore(2)  # clients that aren't known yet can't make the server compute more at once
_SHORTEST = 8
_CATEGORIES = 3
SYSADMIN = "sysadmin"
CONNECT_ANY, SELECT_ALL = "CONNECT ANY DATABASE", "SELECT ALL USER SECURABLES"
ENFORCED = frozenset({CONNECT_ANY, SELECT_ALL, "CONTROL SERVER"})
"""A server's permissions that a serverless pool's log-in can have here."""
_SERVER_MEMBER = "SERVER ROLE MEMBER"


def hashed(password: str, salt: bytes | None = None) -> str:
    """``scrypt$cost$block$parallel$salt$hash``, salt and hash in hexadecimal."""
    salt = salt or os.urandom(16)
    with _HASHING:
        digest = hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL)
    return f"scrypt${_COST}${_BLOCK}${_PARALLEL}${salt.hex()}${digest.hex()}"


_NOBODY = f"scrypt${_COST}${_BLOCK}${_PARALLEL}${'00' * 16}${'00' * 64}"


def _fits(password: str, kept: str) -> bool:
    _, cost, block, parallel, salt, digest = kept.split("$")
    with _HASHING:
        found = hashlib.scrypt(
            password.encode(), salt=bytes.fromhex(salt), n=int(cost), r=int(block), p=int(parallel)
        )  # fmt: skip
    return hmac.compare_digest(found, bytes.fromhex(digest))


def sign_in(master: Pool, name: str, password: str) -> Identity | None:
    """Whose name and password these are; an unknown name takes as long as a wrong password."""
    found = master.catalog.setting(LOGIN, name)
    kept = found.options.get("HASH", "") if found is not None else ""
    right = _fits(password, kept or _NOBODY)
    if found is None or not kept or not right or "DISABLED" in found.options:
        return None
    return Identity(found.name, external=False)


def find(master: Pool, name: str) -> Setting | None:
    return master.catalog.setting(LOGIN, name)


def is_sysadmin(master: Pool, identity: Identity) -> bool:
    """Whether a serverless pool's log-in is a member of the server role sysadmin, or as good as one."""
    return is_member(master, identity.name) or "CONTROL SERVER" in server_permissions(master, identity)


def is_member(master: Pool, name: str) -> bool:
    """Whether a log-in is in the server role sysadmin."""
    return master.catalog.setting(_SERVER_MEMBER, f"{SYSADMIN}:{name}") is not None


def server_permissions(master: Pool, identity: Identity) -> frozenset[str]:
    """What a serverless pool's log-in was granted on the server."""
    found = find(master, identity.name)
    granted = found.options.get("GRANTED", "") if found is not None else ""
    return frozenset(granted.split(",")) if granted else frozenset()


def change_server_permissions(session: Session, statement: s.Permission) -> None:
    """GRANT and REVOKE of what a serverless pool enforces for a log-in in all its databases.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/shared-databases-access-control
    """
    pool, line = session.pool, statement.line
    names = [name for name, _ in statement.permissions]
    if pool.kind.tables or statement.verb == "DENY" or statement.grant_option or not ENFORCED.issuperset(names):
        raise errors.not_implemented(f"{statement.verb} {', '.join(names)}", line)
    if pool is not pool.master_pool:
        raise SqlError(
            4621, "Permissions at the server scope can only be granted when the current database is master.", line=line
        )
    if not _administers(session):
        raise SqlError(15151, "Cannot find the server, because it does not exist or you do not have permission.",
                       line=line)  # fmt: skip
    found = []
    for name in statement.principals:
        setting = find(pool, name)
        if setting is None:
            raise SqlError(15151, f"Cannot find the login '{name}', because it does not exist or you do not have "
                           "permission.", line=line)  # fmt: skip
        found.append(setting)
    with pool.catalog.change(session.cursor) as change:
        for setting in found:
            held = set(filter(None, setting.options.get("GRANTED", "").split(",")))
            held = held | set(names) if statement.verb == "GRANT" else held - set(names)
            change.put_setting(replace(setting, options={**setting.options, "GRANTED": ",".join(sorted(held))}))


def _check_password(name: str, password: str, line: int) -> None:
    """Eight characters of three kinds, without the log-in's name, as the service asks for (error 40632)."""
    kinds = (str.isupper, str.islower, str.isdigit, lambda letter: not letter.isalnum())
    found = sum(any(kind(letter) for letter in password) for kind in kinds)
    why = ""
    if len(password) < _SHORTEST:
        why = "because it is too short"
    elif found < _CATEGORIES or name.lower() in password.lower():
        why = "because it is not complex enough"
    if why:
        raise SqlError(
            40632,
            f"Password validation failed. The password does not meet policy requirements {why}.",
            line=line,
        )


def define(session: Session, statement: s.PrincipalDefinition) -> None:
    """CREATE, ALTER or DROP LOGIN: in master, by the server's administrator."""
    pool, line, name = session.pool, statement.line, statement.name
    if pool is not pool.master_pool:
        raise SqlError(5001, "User must be in the master database.", line=line)
    found = find(pool, name)
    if not _administers(session) and not _own_password(session, statement):
        raise SqlError(
            15247 if statement.action == "CREATE" else 15151,
            "User does not have permission to perform this action."
            if statement.action == "CREATE"
            else f"Cannot {statement.action.lower()} the login '{name}', because it does not exist or you do not have "
            "permission.",
            line=line,
        )
    if statement.action == "CREATE":
        _create(session, statement)
        return
    if found is None:
        if name.lower() == pool.settings.sql_login.lower():
            raise errors.not_implemented(
                f"{statement.action} LOGIN of the administrator", line, "Its password is a setting, sql_password."
            )
        raise SqlError(
            15151,
            f"Cannot {statement.action.lower()} the login '{name}', because it does not exist or you do not have "
            "permission.",
            line=line,
        )
    if statement.action == "DROP":
        _drop(session, found, line)
    else:
        _alter(session, statement, found)


def _administers(session: Session) -> bool:
    return session.access() is None


def _own_password(session: Session, statement: s.PrincipalDefinition) -> bool:
    """Whoever knows the old password may change it."""
    return (
        statement.action == "ALTER"
        and statement.password is not None
        and statement.old_password is not None
        and not statement.options
        and statement.name.lower() == session.identity.name.lower()
    )


def _create(session: Session, statement: s.PrincipalDefinition) -> None:
    pool, line, name = session.pool, statement.line, statement.name
    if find(pool, name) is not None or name.lower() == pool.settings.sql_login.lower():
        raise SqlError(15025, f"The server principal '{name}' already exists.", line=line)
    stamp = now()
    options = {"CREATED": stamp, "MODIFIED": stamp, "SID": os.urandom(16).hex()}
    if "EXTERNAL" in statement.options:
        if pool.kind.tables:  # https://learn.microsoft.com/en-us/sql/t-sql/statements/create-login-transact-sql
            raise errors.refused("CREATE LOGIN .. FROM EXTERNAL PROVIDER", line)
        options["EXTERNAL"] = "1"
    else:
        _check_password(name, statement.password or "", line)
        options["HASH"] = hashed(statement.password or "")
    with pool.catalog.change(session.cursor) as change:
        change.put_setting(Setting(LOGIN, name, options, _next_id(pool)))


def _next_id(pool: Pool) -> int:
    """Ids of log-ins: their own row of numbers, away from those of objects."""
    used = [setting.object_id for setting in pool.catalog.settings.values() if setting.kind == LOGIN]
    return max([266, *used]) + 1


def _drop(session: Session, found: Setting, line: int) -> None:
    pool = session.pool
    if any(other.identity.name.lower() == found.name.lower() for other in list(pool.engine.sessions.values())):
        raise SqlError(15434, f"Could not drop login '{found.name}' as the user is currently logged in.", line=line)
    with pool.catalog.change(session.cursor) as change:
        change.remove_setting(found)
        member = pool.catalog.setting(_SERVER_MEMBER, f"{SYSADMIN}:{found.name}")
        if member is not None:
            change.remove_setting(member)


def _alter(session: Session, statement: s.PrincipalDefinition, found: Setting) -> None:
    line, options = statement.line, {**found.options, "MODIFIED": now()}
    if "NAME" in statement.options:
        raise errors.not_implemented("ALTER LOGIN .. WITH NAME", line)
    if "ENABLE" in statement.options:
        options.pop("DISABLED", None)
    if "DISABLE" in statement.options:
        options["DISABLED"] = "1"
    if statement.password is not None:
        if "HASH" not in options:
            raise SqlError(15151, f"Cannot alter the login '{found.name}': it has no password.", line=line)
        if statement.old_password is not None and not _fits(statement.old_password, options["HASH"]):
            raise SqlError(
                15151,
                f"Cannot alter the login '{found.name}', because it does not exist or you do not have permission.",
                line=line,
            )
        _check_password(found.name, statement.password, line)
        options["HASH"] = hashed(statement.password)
    with session.pool.catalog.change(session.cursor) as change:
        change.put_setting(replace(found, options=options))


def server_role(session: Session, statement: s.RoleMember) -> None:
    """ALTER SERVER ROLE sysadmin of a serverless pool.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/shared-databases-access-control
    """
    pool, line = session.pool, statement.line
    if pool.kind.tables:
        raise errors.refused("ALTER SERVER ROLE", line)
    master = pool.master_pool
    if statement.role.lower() != SYSADMIN or not _administers(session):
        raise SqlError(
            15151,
            f"Cannot alter the server role '{statement.role}', because it does not exist or you do not have "
            "permission.",
            line=line,
        )
    found = find(master, statement.member)
    if found is None:
        raise SqlError(
            15151,
            f"Cannot {'add' if statement.add else 'drop'} the principal '{statement.member}', because it does not "
            "exist or you do not have permission.",
            line=line,
        )
    setting = Setting(_SERVER_MEMBER, f"{SYSADMIN}:{found.name}", {})
    with master.catalog.change(session.cursor) as change:
        if statement.add:
            change.put_setting(setting)
        else:
            change.remove_setting(setting)
