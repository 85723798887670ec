"""Users, roles and owners of a database, and what each user may do: read from the catalogue, kept until it changes.

Kept as settings: USER and ROLE (name, principal id), ROLE MEMBER, PERMISSION, SCHEMA OWNER; in master LOGIN.
https://learn.microsoft.com/en-us/sql/relational-databases/security/authentication-access/principals-database-engine
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from localazure.sql.catalog import Catalog, CatalogObject, Setting, Table, View
from localazure.sql.permissions import (
    CONTROL_OF_ALL,
    DATABASE,
    FIXED_ROLES,
    OBJECT,
    ON_OBJECTS,
    RESOURCE_CLASSES,
    SCHEMA,
    FixedRole,
    covering,
)
from localazure.sql.results import SqlError

PUBLIC, DBO, GUEST = 0, 1, 2
_FIRST_PRINCIPAL = 5
_RESERVED = {"public": PUBLIC, "dbo": DBO, "guest": GUEST, "information_schema": 3, "sys": 4}
USER, ROLE, MEMBER, PERMISSION, OWNER, LOGIN = "USER", "ROLE", "ROLE MEMBER", "PERMISSION", "SCHEMA OWNER", "LOGIN"


@dataclass(frozen=True)
class Identity:
    """Who opened a session. administrator: the server's own; external: known by a token of the directory."""

    name: str
    administrator: bool = False
    external: bool = False


@dataclass(frozen=True)
class Principal:
    """A user or a role. login: that a user was made for; kind: SQL, EXTERNAL, NONE (WITHOUT LOGIN), ROLE."""

    principal_id: int
    name: str
    kind: str
    login: str = ""
    schema: str = "dbo"
    owner: int = DBO
    created: str = ""
    modified: str = ""

    @property
    def is_role(self) -> bool:
        return self.kind == "ROLE"

    @property
    def fixed(self) -> bool:
        return self.is_role and (self.principal_id == PUBLIC or self.principal_id >= FIXED_ROLES["db_owner"][0])


@dataclass(frozen=True)
class Entry:
    """One row of GRANT or DENY. minor: a column's name in lower case, else empty; state: GRANT, DENY, WITH GRANT."""

    kind: int
    major: int
    minor: str
    grantee: int
    permission: str
    state: str
    grantor: int = DBO

    @property
    def name(self) -> str:
        """Its setting's name."""
        return f"{self.kind}:{self.major}:{self.grantee}:{self.permission}:{self.minor}"

    @property
    def setting(self) -> Setting:
        options = {"STATE": self.state, "GRANTOR": str(self.grantor)}
        return Setting(PERMISSION, self.name, options)


def _entry(setting: Setting) -> Entry:
    kind, major, grantee, permission, minor = setting.name.split(":", 4)
    state, grantor = setting.options["STATE"], int(setting.options["GRANTOR"])
    return Entry(int(kind), int(major), minor, int(grantee), permission, state, grantor)


class Directory:
    """The principals of one state of a catalogue. Immutable but for what it has worked out already."""

    def __init__(self, settings: Iterable[Setting], schemas: dict[str, tuple[str, int]], dedicated: bool) -> None:
        self.principals: dict[str, Principal] = {}
        self.by_id: dict[int, Principal] = {}
        self.roles_of: dict[int, set[int]] = {}
        self.entries: list[Entry] = []
        self.schemas = schemas
        self._owners: dict[str, int] = {}
        self._accesses: dict[tuple[int, bool], Access] = {}
        self.fixed: dict[int, FixedRole] = {}
        self._add(Principal(PUBLIC, "public", "ROLE"))
        self._add(Principal(DBO, "dbo", "SQL"))
        self._add(Principal(GUEST, "guest", "SQL", schema="guest"))
        fixed = {**FIXED_ROLES, **(RESOURCE_CLASSES if dedicated else {})}
        for name, role in fixed.items():
            self._add(Principal(role.principal_id, name, "ROLE"))
            self.fixed[role.principal_id] = role
        self.roles_of[DBO] = {FIXED_ROLES["db_owner"].principal_id}
        for setting in settings:
            self._read(setting)

    def _read(self, setting: Setting) -> None:
        options = setting.options
        match setting.kind:
            case "USER":
                self._add(
                    Principal(
                        setting.object_id, setting.name, options["KIND"], options.get("LOGIN", ""),
                        options.get("SCHEMA", "dbo"), DBO, options["CREATED"], options["MODIFIED"],
                    )
                )  # fmt: skip
            case "ROLE":
                self._add(
                    Principal(
                        setting.object_id, setting.name, "ROLE", owner=int(options["OWNER"]),
                        created=options["CREATED"], modified=options["MODIFIED"],
                    )
                )  # fmt: skip
            case "ROLE MEMBER":
                role, member = map(int, setting.name.split(":"))
                self.roles_of.setdefault(member, set()).add(role)
            case "PERMISSION":
                self.entries.append(_entry(setting))
            case "SCHEMA OWNER":
                self._owners[setting.name.lower()] = int(options["ID"])

    def _add(self, principal: Principal) -> None:
        self.principals[principal.name.lower()] = principal
        self.by_id[principal.principal_id] = principal

    def find(self, name: str) -> Principal | None:
        return self.principals.get(name.lower())

    def user_of(self, identity: Identity) -> Principal | None:
        """The user that a log-in is in this database."""
        kind = "EXTERNAL" if identity.external else "SQL"
        login = identity.name.lower()
        return next((p for p in self.by_id.values() if p.kind == kind and p.login and p.login.lower() == login), None)

    def next_id(self) -> int:
        used = [number for number in self.by_id if number < FIXED_ROLES["db_owner"].principal_id]
        return max([_FIRST_PRINCIPAL - 1, *used]) + 1

    def owner_of(self, schema: str) -> int:
        """Who owns a schema, and with it whatever is in it."""
        return self._owners.get(schema.lower(), DBO)

    def owned(self, principal_id: int) -> list[str]:
        """Schemas that a principal owns."""
        return [self.schemas[name][0] for name, owner in self._owners.items() if owner == principal_id]

    def members(self, role_id: int) -> list[int]:
        return [member for member, roles in self.roles_of.items() if role_id in roles]

    def all_roles(self, principal_id: int) -> frozenset[int]:
        """A principal, the roles it is in, those that these are in, and public."""
        found, left = {PUBLIC, principal_id}, [principal_id]
        while left:
            for role in self.roles_of.get(left.pop(), ()):
                if role not in found:
                    found.add(role)
                    left.append(role)
        return frozenset(found)

    def access(self, principal_id: int, reads_all: bool = False) -> Access:
        """reads_all: SELECT ALL USER SECURABLES, which a server gives its log-ins."""
        key = principal_id, reads_all
        known = self._accesses.get(key)
        if known is None:
            known = self._accesses[key] = Access(self, principal_id, reads_all)
        return known


@dataclass
class Access:
    """What one user may do. A DENY wins over every GRANT, but for who owns the securable or the database."""

    directory: Directory
    user_id: int
    reads_all: bool = False
    ids: frozenset[int] = field(init=False)
    granted: set[tuple[int, int, str]] = field(init=False, default_factory=set)
    denied: set[tuple[int, int, str]] = field(init=False, default_factory=set)
    grantable: set[tuple[int, int, str]] = field(init=False, default_factory=set)
    columns: dict[tuple[int, str, str], bool] = field(init=False, default_factory=dict)
    _known: dict[tuple[str, int, int, str], bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = self.directory.all_roles(self.user_id)
        if self.reads_all:
            self.granted.add((DATABASE, 0, "SELECT"))
        for number in self.ids:
            role = self.directory.fixed.get(number)
            if role is not None:
                self.granted.update((DATABASE, 0, permission) for permission in role.granted)
                self.denied.update((DATABASE, 0, permission) for permission in role.denied)
        for entry in self.directory.entries:
            if entry.grantee not in self.ids:
                continue
            if entry.minor:
                key = entry.major, entry.permission, entry.minor
                self.columns[key] = self.columns.get(key, True) and entry.state != "DENY"
                continue
            place = entry.kind, entry.major, entry.permission
            (self.denied if entry.state == "DENY" else self.granted).add(place)
            if entry.state == "WITH GRANT":
                self.grantable.add(place)

    def allows(self, permission: str, kind: int, major: int = 0, schema: str = "") -> bool:
        """Whether the user has a permission on a securable; ``schema``: the one it is in, or is."""
        if self.user_id == DBO:
            return True
        key = permission, kind, major, schema
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._worked_out(permission, kind, major, schema)
        return known

    def _worked_out(self, permission: str, kind: int, major: int, schema: str) -> bool:
        if schema and self.directory.owner_of(schema) in self.ids - {PUBLIC}:
            return True
        schema_id = self.directory.schemas.get(schema.lower(), ("", 0))[1]
        numbers = {DATABASE: 0, SCHEMA: schema_id, kind: major}
        held = False
        for level, names in covering(permission, kind):
            for name in names:
                place = level, numbers[level], name
                if place in self.denied:
                    return False
                held = held or place in self.granted
        return held

    def on(self, permission: str, entry: CatalogObject) -> bool:
        """Whether the user has a permission on a table, a view, a procedure or a function."""
        return self.allows(permission, OBJECT, entry.object_id, entry.schema)

    def on_database(self, permission: str) -> bool:
        return self.allows(permission, DATABASE)

    def on_schema(self, permission: str, schema: str) -> bool:
        number = self.directory.schemas.get(schema.lower(), ("", 0))[1]
        return self.allows(permission, SCHEMA, number, schema)

    def refused_columns(self, permission: str, entry: CatalogObject) -> frozenset[str] | None:
        """Columns (lower case) that the user may not use although others may be; None when it may use none at all.

        A GRANT of a column outweighs a DENY of the table, as the vendor has it:
        https://learn.microsoft.com/en-us/sql/t-sql/statements/deny-object-permissions-transact-sql#remarks
        """
        whole = self.on(permission, entry)
        own = {name: kept for (major, what, name), kept in self.columns.items()
               if major == entry.object_id and what == permission}  # fmt: skip
        if self.user_id == DBO or not own:
            return frozenset() if whole else None
        refused = {name for name, kept in own.items() if not kept}
        if whole:
            return frozenset(refused)
        names = {name.lower() for name in _columns(entry)}
        kept = {name for name, allowed in own.items() if allowed}
        return frozenset(names - kept) if kept else None

    def sees(self, entry: CatalogObject) -> bool:
        """Whether the catalogue's views show it: who has any permission on an object sees that it is there.

        https://learn.microsoft.com/en-us/sql/relational-databases/security/metadata-visibility-configuration
        """
        if any(self.on(permission, entry) for permission in ON_OBJECTS):
            return True
        return any(major == entry.object_id and kept for (major, _, _), kept in self.columns.items())

    def may_grant(self, permission: str, kind: int, major: int, schema: str) -> bool:
        """Whether the user may grant, deny or revoke it: by CONTROL, as db_securityadmin, or WITH GRANT OPTION."""
        if self.allows("CONTROL", kind, major, schema) or CONTROL_OF_ALL & self.ids:
            return True
        return (kind, major, permission) in self.grantable and self.allows(permission, kind, major, schema)


def _columns(entry: CatalogObject) -> tuple[str, ...]:
    if isinstance(entry, Table):
        return tuple(column.name for column in entry.columns)
    return entry.columns if isinstance(entry, View) else ()


def directory(catalog: Catalog, dedicated: bool) -> Directory:
    """The principals of the catalogue as it is now."""
    settings, known = catalog.settings, catalog.directory
    if known is not None and known[0] is settings and isinstance(known[1], Directory):
        return known[1]
    made = Directory(settings.values(), catalog.schemas, dedicated)
    catalog.directory = settings, made
    return made


def reserved(name: str) -> bool:
    """A name that every database has already."""
    lower = name.lower()
    return lower in _RESERVED or lower in FIXED_ROLES or lower in RESOURCE_CLASSES


def no_entry(identity: Identity, database: str, line: int = 1) -> SqlError:
    return SqlError(
        916,
        f'The server principal "{identity.name}" is not able to access the database "{database}" under the current '
        "security context.",
        severity=14,
        line=line,
    )
