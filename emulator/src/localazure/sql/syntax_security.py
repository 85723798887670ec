"""The syntax tree of what says who may do what: log-ins, users, roles, permissions, owners, impersonation."""

from __future__ import annotations

from dataclasses import dataclass, field

from localazure.sql.syntax_queries import Parts
from localazure.sql.syntax_statements import Statement


@dataclass(slots=True)
class PrincipalDefinition(Statement):
    """CREATE, ALTER or DROP of a principal.

    kind: LOGIN, USER, ROLE; action: CREATE, ALTER, DROP; options: by their words in upper case, LOGIN, WITHOUT LOGIN,
    EXTERNAL, DEFAULT_SCHEMA, NAME, ENABLE, DISABLE, AUTHORIZATION.
    """

    action: str
    kind: str
    name: str
    options: dict[str, str] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)
    old_password: str | None = field(default=None, repr=False)
    if_exists: bool = False


@dataclass(slots=True)
class RoleMember(Statement):
    """ALTER ROLE or ALTER SERVER ROLE (``server``) .. ADD or DROP MEMBER."""

    role: str
    member: str
    add: bool
    server: bool = False


@dataclass(slots=True)
class Permission(Statement):
    """GRANT, DENY or REVOKE (``verb``) of ``permissions`` (name, its columns) on a securable to ``principals``.

    securable_class: OBJECT, SCHEMA, DATABASE, USER, ROLE, DATABASE SCOPED CREDENTIAL, or SERVER where nothing follows
    a server's permission. only_option: REVOKE GRANT OPTION FOR.
    """

    verb: str
    permissions: list[tuple[str, list[str]]]
    securable_class: str
    securable: Parts
    columns: list[str]
    principals: list[str]
    grant_option: bool = False
    only_option: bool = False
    cascade: bool = False


@dataclass(slots=True)
class Authorization(Statement):
    """ALTER AUTHORIZATION ON class::name TO owner; the owner is None for SCHEMA OWNER."""

    securable_class: str
    securable: Parts
    owner: str | None


@dataclass(slots=True)
class ExecuteAs(Statement):
    """EXECUTE AS USER = 'name'."""

    user: str


@dataclass(slots=True)
class Revert(Statement):
    """REVERT: back to who it was before the last EXECUTE AS."""
