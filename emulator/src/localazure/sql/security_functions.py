"""Functions about who the session is and what it may do.

https://learn.microsoft.com/en-us/sql/t-sql/functions/security-functions-transact-sql
"""

from __future__ import annotations

from localazure.sql import errors
from localazure.sql.authority import directory_of
from localazure.sql.binding import Context
from localazure.sql.conversions import Value
from localazure.sql.function_table import Invocation, function
from localazure.sql.permissions import CLASSES, DATABASE, OBJECT, OF_CLASS, SCHEMA
from localazure.sql.principals import DBO, Access, Principal
from localazure.sql.sqltypes import INT, SYSNAME
from localazure.sql.system_functions import constant_of, integer, lookup, split_object_name, text_of_name


def _me(context: Context) -> Principal:
    known = directory_of(context.pool)
    access = context.access
    return known.by_id[DBO if access is None else access.user_id]


@function("CURRENT_USER", "USER", "USER_NAME", "SESSION_USER", args=(0, 1))
def _user(i: Invocation) -> Value:
    context = i.compiler.context
    context.cacheable = False
    if not i.call.args:
        return text_of_name(_me(context).name)
    known = directory_of(context.pool)
    return lookup(i.number(0, INT), [(number, p.name) for number, p in known.by_id.items()], SYSNAME)


@function("DATABASE_PRINCIPAL_ID", "USER_ID", args=(0, 1))
def _user_id(i: Invocation) -> Value:
    context = i.compiler.context
    context.cacheable = False
    if not i.call.args:
        return integer(_me(context).principal_id)
    known = directory_of(context.pool)
    return lookup(f"lower({i.text(0).sql})", [(p.name, number) for number, p in known.by_id.items()], INT)


@function("SUSER_SNAME", "SUSER_NAME", "SYSTEM_USER", args=(0, 1))
def _login(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    return i.compiler.context.server_value("@@LOGIN", i.line)


@function("ORIGINAL_LOGIN", args=0)
def _original_login(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    return i.compiler.context.server_value("@@ORIGINAL_LOGIN", i.line)


@function("IS_MEMBER", args=1)
def _is_member(i: Invocation) -> Value:
    """1, 0, or NULL for what is no role. dbo is a member of db_owner alone, as in the vendor's."""
    context = i.compiler.context
    context.cacheable = False
    return _membership(i, _me(context).principal_id)


@function("IS_ROLEMEMBER", args=(1, 2))
def _is_role_member(i: Invocation) -> Value:
    context = i.compiler.context
    context.cacheable = False
    if len(i.call.args) == 1:
        return _membership(i, _me(context).principal_id)
    member = directory_of(context.pool).find(_constant_text(i, 1))
    return integer(None) if member is None else _membership(i, member.principal_id)


def _membership(i: Invocation, principal_id: int) -> Value:
    known = directory_of(i.compiler.context.pool)
    roles = known.all_roles(principal_id)
    pairs = [(p.name, int(number in roles)) for number, p in known.by_id.items() if p.is_role]
    return lookup(f"lower({i.text(0).sql})", pairs, INT)


@function("IS_SRVROLEMEMBER", args=(1, 2))
def _is_server_role_member(i: Invocation) -> Value:
    i.compiler.context.cacheable = False
    return integer(int(i.compiler.context.access is None))


@function("HAS_DBACCESS", args=1)
def _has_access(i: Invocation) -> Value:
    context = i.compiler.context
    context.cacheable = False
    return lookup(f"lower({i.text(0).sql})", [(name, int(_enters(context, name))) for name, *_ in context.databases()],
                  INT)  # fmt: skip


def _enters(context: Context, name: str) -> bool:
    from localazure.sql.results import SqlError

    server = getattr(context.pool, "server", None)
    if server is None or context.access_in is None:
        return context.access is None or name.lower() in {context.database.lower(), "master"}
    try:
        context.access_in(server.database(name))
    except SqlError:
        return False
    return True


@function("HAS_PERMS_BY_NAME", args=(3, 5))
def _has_permission(i: Invocation) -> Value:
    """https://learn.microsoft.com/en-us/sql/t-sql/functions/has-perms-by-name-transact-sql"""
    context = i.compiler.context
    context.cacheable = False
    given = [constant_of(i, index) for index in range(len(i.call.args))]
    if not all(constant for constant, _ in given):
        if context.access is None:
            return integer(1)
        raise errors.not_implemented("HAS_PERMS_BY_NAME of an expression", i.line, "Literals and variables are.")
    securable, kind, permission, *sub = ("" if value is None else str(value) for _, value in given)
    column = sub[0].lower() if sub and sub[-1].upper() in {"COLUMN", sub[0].upper()} else ""
    return integer(_held(context, securable, kind.upper(), permission.upper(), column))


def _held(context: Context, securable: str, kind: str, permission: str, column: str) -> int | None:
    """1 or 0, NULL for a class, a permission or a securable that isn't there."""
    access = context.access
    if not kind:
        return int(access is None)  # of the server
    number = CLASSES.get(kind)
    if number is None or not (permission == "ANY" or permission in OF_CLASS[number]):
        return None
    wanted = OF_CLASS[number] if permission == "ANY" else (permission,)
    if number == DATABASE:
        if securable and securable.strip("[]").lower() != context.database.lower():
            return None
        return int(access is None or any(access.on_database(name) for name in wanted))
    if number == SCHEMA:
        name = securable.strip("[]")
        if name.lower() not in context.catalog.schemas:
            return None
        return int(access is None or any(access.on_schema(each, name) for each in wanted))
    if number == OBJECT:
        entry = context.catalog.find(*split_object_name(securable))
        if entry is None or (access is not None and not access.sees(entry)):
            return None
        if access is None:
            return 1
        if column:
            refused = access.refused_columns(wanted[0], entry)
            return int(refused is not None and column not in refused)
        return int(any(access.on(each, entry) for each in wanted))
    found = directory_of(context.pool).find(securable.strip("[]"))
    if found is None:
        return None
    return int(access is None or any(access.allows(each, number, found.principal_id) for each in wanted))


def _constant_text(i: Invocation, index: int) -> str:
    return i.compiler.constant_text(i.call.args[index], i.scope)


def my_permissions(context: Context, securable: str | None, kind: str) -> list[tuple[str, str, str]]:
    """Rows of sys.fn_my_permissions: entity, column, permission.

    https://learn.microsoft.com/en-us/sql/relational-databases/system-functions/sys-fn-my-permissions-transact-sql
    """
    number = CLASSES.get(kind.upper())
    if number is None:
        return []
    name = securable or ""
    rows = [
        (name or "database", "", permission)
        for permission in OF_CLASS[number]
        if _held(context, name, kind.upper(), permission, "") == 1
    ]
    if number == OBJECT and context.access is not None:
        rows += list(_of_columns(context.access, context, name))
    return rows


def _of_columns(access: Access, context: Context, name: str) -> list[tuple[str, str, str]]:
    entry = context.catalog.find(*split_object_name(name))
    if entry is None:
        return []
    return [
        (name, column, permission)
        for (major, permission, column), kept in access.columns.items()
        if major == entry.object_id and kept
    ]
