"""Permissions: which there are on what, which imply which, and what the fixed roles hold.

https://learn.microsoft.com/en-us/sql/t-sql/statements/permissions-grant-deny-revoke-azure-sql-data-warehouse-parallel-data-warehouse
https://learn.microsoft.com/en-us/sql/relational-databases/security/permissions-hierarchy-database-engine
https://learn.microsoft.com/en-us/sql/relational-databases/security/authentication-access/database-level-roles
"""

from __future__ import annotations

from typing import NamedTuple

DATABASE, OBJECT, SCHEMA, PRINCIPAL, CREDENTIAL = 0, 1, 3, 4, 32
"""Classes of securables, as sys.database_permissions numbers them."""

CLASS_NAMES = {
    DATABASE: "DATABASE",
    OBJECT: "OBJECT_OR_COLUMN",
    SCHEMA: "SCHEMA",
    PRINCIPAL: "DATABASE_PRINCIPAL",
    CREDENTIAL: "DATABASE_SCOPED_CREDENTIAL",
}
CLASSES = {
    "DATABASE": DATABASE,
    "OBJECT": OBJECT,
    "SCHEMA": SCHEMA,
    "USER": PRINCIPAL,
    "ROLE": PRINCIPAL,
    "DATABASE SCOPED CREDENTIAL": CREDENTIAL,
}

ON_ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE", "REFERENCES")
ON_COLUMNS = frozenset({"SELECT", "UPDATE", "REFERENCES"})
ON_OBJECTS = (*ON_ROWS, "EXECUTE", "ALTER", "CONTROL", "TAKE OWNERSHIP", "VIEW DEFINITION")

# A permission on the database, and those on the database that imply it.
_ANY = ("ALTER", "CONTROL")
IMPLIED_ON_DATABASE: dict[str, tuple[str, ...]] = {
    "CONTROL": (),
    **dict.fromkeys(
        ("ALTER", "CONNECT", "SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE", "REFERENCES", "TAKE OWNERSHIP",
         "VIEW DEFINITION", "VIEW DATABASE STATE", "KILL DATABASE CONNECTION", "BACKUP DATABASE", "UNMASK",
         "ADMINISTER DATABASE BULK OPERATIONS"),
        ("CONTROL",),
    ),
    **dict.fromkeys(
        ("ALTER ANY SCHEMA", "ALTER ANY ROLE", "ALTER ANY USER", "ALTER ANY DATASPACE", "ALTER ANY MASK",
         "ALTER ANY EXTERNAL DATA SOURCE", "ALTER ANY EXTERNAL FILE FORMAT", "ALTER ANY SECURITY POLICY",
         "ALTER ANY SENSITIVITY CLASSIFICATION", "CREATE TABLE", "CREATE VIEW", "CREATE PROCEDURE", "CREATE FUNCTION",
         "SHOWPLAN"),
        _ANY,
    ),
    "CREATE SCHEMA": ("ALTER ANY SCHEMA", *_ANY),
    "CREATE ROLE": ("ALTER ANY ROLE", *_ANY),
}  # fmt: skip
ON_PRINCIPALS = ("ALTER", "CONTROL", "VIEW DEFINITION", "IMPERSONATE", "TAKE OWNERSHIP")
ON_CREDENTIALS = ("ALTER", "CONTROL", "REFERENCES", "TAKE OWNERSHIP", "VIEW DEFINITION")
OF_CLASS: dict[int, tuple[str, ...]] = {
    DATABASE: tuple(IMPLIED_ON_DATABASE),
    OBJECT: ON_OBJECTS,
    SCHEMA: ON_OBJECTS,
    PRINCIPAL: ON_PRINCIPALS,
    CREDENTIAL: ON_CREDENTIALS,
}
# Of a database's ALTER on what is in it: which ALTER ANY .. implies it.
_ALTER_ANY = {
    OBJECT: "ALTER ANY SCHEMA",
    SCHEMA: "ALTER ANY SCHEMA",
}

OF_SERVER = frozenset(
    {"CONTROL SERVER", "ALTER ANY LOGIN", "ALTER ANY CREDENTIAL", "ALTER SERVER STATE", "VIEW SERVER STATE",
     "ADMINISTER BULK OPERATIONS", "CONNECT ANY DATABASE", "SELECT ALL USER SECURABLES", "VIEW ANY DATABASE",
     "VIEW ANY DEFINITION", "ALTER ANY DATABASE", "CREATE ANY DATABASE", "CONNECT SQL", "IMPERSONATE ANY LOGIN"}
)  # fmt: skip

CODES = {
    "SELECT": "SL", "INSERT": "IN", "UPDATE": "UP", "DELETE": "DL", "EXECUTE": "EX", "REFERENCES": "RF",
    "ALTER": "AL", "CONTROL": "CL", "TAKE OWNERSHIP": "TO", "VIEW DEFINITION": "VW", "CONNECT": "CO",
    "CREATE TABLE": "CRTB", "CREATE VIEW": "CRVW", "CREATE PROCEDURE": "CRPR", "CREATE FUNCTION": "CRFN",
    "CREATE SCHEMA": "CRSM", "CREATE ROLE": "CRRL", "ALTER ANY SCHEMA": "ALSM", "ALTER ANY ROLE": "ALRL",
    "ALTER ANY USER": "ALUS", "ALTER ANY DATASPACE": "ALDS", "ALTER ANY MASK": "AAMK", "UNMASK": "UMSK",
    "ALTER ANY EXTERNAL DATA SOURCE": "AEDS", "ALTER ANY EXTERNAL FILE FORMAT": "AEFF",
    "ALTER ANY SECURITY POLICY": "ALSP", "ALTER ANY SENSITIVITY CLASSIFICATION": "AASC", "SHOWPLAN": "SPLN",
    "VIEW DATABASE STATE": "VWDS", "KILL DATABASE CONNECTION": "KIDC", "BACKUP DATABASE": "BADB",
    "ADMINISTER DATABASE BULK OPERATIONS": "DABO", "IMPERSONATE": "IM",
}  # fmt: skip
"""sys.database_permissions.type."""


class FixedRole(NamedTuple):
    """granted, denied: permissions on the database."""

    principal_id: int
    granted: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


FIXED_ROLES = {
    "db_owner": FixedRole(16384, ("CONTROL",)),
    "db_accessadmin": FixedRole(16385, ("ALTER ANY USER", "CREATE SCHEMA", "CONNECT")),
    "db_securityadmin": FixedRole(16386, ("ALTER ANY ROLE", "CREATE ROLE", "VIEW DEFINITION")),
    "db_ddladmin": FixedRole(
        16387,
        ("ALTER ANY SCHEMA", "CREATE TABLE", "CREATE VIEW", "CREATE PROCEDURE", "CREATE FUNCTION", "CREATE SCHEMA",
         "ALTER ANY DATASPACE", "ALTER ANY EXTERNAL DATA SOURCE", "ALTER ANY EXTERNAL FILE FORMAT", "REFERENCES"),
    ),
    "db_backupoperator": FixedRole(16389, ("BACKUP DATABASE",)),
    "db_datareader": FixedRole(16390, ("SELECT",)),
    "db_datawriter": FixedRole(16391, ("INSERT", "UPDATE", "DELETE")),
    "db_denydatareader": FixedRole(16392, (), ("SELECT",)),
    "db_denydatawriter": FixedRole(16393, (), ("INSERT", "UPDATE", "DELETE")),
}  # fmt: skip
# https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/resource-classes-for-workload-management
RESOURCE_CLASSES = {
    name: FixedRole(number)
    for number, name in enumerate(
        ("mediumrc", "largerc", "xlargerc", "staticrc10", "staticrc20", "staticrc30", "staticrc40", "staticrc50",
         "staticrc60", "staticrc70", "staticrc80"),
        16400,
    )
}  # fmt: skip
CONTROL_OF_ALL = frozenset({FIXED_ROLES["db_owner"].principal_id, FIXED_ROLES["db_securityadmin"].principal_id})
"""Roles whose members grant and deny whatever there is in the database."""


def covering(permission: str, kind: int) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """What holds or denies ``permission`` on a securable of this class: (class, permissions), from inside out.

    A permission is implied by CONTROL of the same securable, and by the same permission on what contains it.
    """
    if kind == DATABASE:
        return ((DATABASE, (permission, *IMPLIED_ON_DATABASE.get(permission, ("CONTROL",)))),)
    here = (permission,) if permission == "CONTROL" else (permission, "CONTROL")
    levels: list[tuple[int, tuple[str, ...]]] = [(kind, here)]
    if kind == OBJECT:
        levels.append((SCHEMA, here))
    if permission == "ALTER" and kind in _ALTER_ANY:
        levels.append((DATABASE, (_ALTER_ANY[kind], *_ANY)))
    elif permission in IMPLIED_ON_DATABASE:
        levels.append((DATABASE, (permission, *IMPLIED_ON_DATABASE[permission])))
    else:
        levels.append((DATABASE, ("CONTROL",)))
    return tuple(levels)
