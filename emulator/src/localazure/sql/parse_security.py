"""Recursive descent over log-ins, users, roles, permissions, owners and impersonation.

https://learn.microsoft.com/en-us/sql/t-sql/statements/permissions-grant-deny-revoke-azure-sql-data-warehouse-parallel-data-warehouse
https://learn.microsoft.com/en-us/sql/t-sql/statements/create-user-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/statements/create-login-transact-sql
"""

from __future__ import annotations

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.parse_modules import ModuleParser
from localazure.sql.results import SqlError

_CLASSES = (
    ("DATABASE", "SCOPED", "CREDENTIAL"),
    ("OBJECT",),
    ("SCHEMA",),
    ("DATABASE",),
    ("USER",),
    ("ROLE",),
    ("LOGIN",),
    ("CREDENTIAL",),
)


class SecurityParser(ModuleParser):
    """Statements about principals and what they may do."""

    def create_principal(self, line: int) -> s.Statement | None:
        """Behind CREATE: a log-in, a user or a role; None when something else follows."""
        if self.take("LOGIN"):
            return self._create_login(line)
        if self.take("USER"):
            return self._create_user(line)
        if self.take("ROLE"):
            made = s.PrincipalDefinition(line, "CREATE", "ROLE", self.identifier())
            if self.take("AUTHORIZATION"):
                made.options["AUTHORIZATION"] = self.identifier()
            return made
        return None

    def _create_login(self, line: int) -> s.Statement:
        made = s.PrincipalDefinition(line, "CREATE", "LOGIN", self.identifier())
        if self.take("FROM"):
            self._external(made)
            return made
        self.expect("WITH")
        self._login_options(made)
        if made.password is None:
            raise self.error()
        return made

    def _external(self, made: s.PrincipalDefinition) -> None:
        if self.at_any("WINDOWS", "CERTIFICATE", "ASYMMETRIC"):
            raise errors.refused(f"FROM {self.token.key}", made.line)
        self.expect("EXTERNAL", "PROVIDER")
        made.options["EXTERNAL"] = ""
        if self.at("WITH"):
            raise errors.not_implemented("FROM EXTERNAL PROVIDER WITH", made.line)

    def _login_options(self, made: s.PrincipalDefinition) -> None:
        """``PASSWORD = '..', OLD_PASSWORD = '..', NAME = x`` in any order."""
        while True:
            token = self.advance()
            if token.key == "NAME":
                self.expect("=")
                made.options["NAME"] = self.identifier()
            elif token.key in {"PASSWORD", "OLD_PASSWORD"}:
                self.expect("=")
                if self.token.kind not in {"string", "nstring"}:
                    raise errors.refused("HASHED password", made.line)
                text = self.advance().text
                if token.key == "PASSWORD":
                    made.password = text
                else:
                    made.old_password = text
                if self.at_any("HASHED", "MUST_CHANGE", "UNLOCK"):
                    raise errors.refused(self.token.key, made.line)
            elif token.key in {"SID", "DEFAULT_DATABASE", "DEFAULT_LANGUAGE", "CHECK_POLICY", "CHECK_EXPIRATION"}:
                raise errors.not_implemented(f"LOGIN option {token.key}", made.line)
            else:
                raise self.error(token)
            if not (self.take(",") or self.at_any("PASSWORD", "OLD_PASSWORD", "NAME")):
                return

    def _create_user(self, line: int) -> s.Statement:
        made = s.PrincipalDefinition(line, "CREATE", "USER", self.identifier())
        if self.take("WITHOUT", "LOGIN"):
            made.options["WITHOUT LOGIN"] = ""
        elif self.at_any("FOR", "FROM"):
            self.advance()
            if self.take("LOGIN"):
                made.options["LOGIN"] = self.identifier()
            else:
                self._external_user(made)
        if self.take("WITH"):
            self._user_options(made)
        return made

    def _external_user(self, made: s.PrincipalDefinition) -> None:
        if self.at_any("CERTIFICATE", "ASYMMETRIC"):
            raise errors.refused(f"CREATE USER .. FOR {self.token.key}", made.line)
        self.expect("EXTERNAL", "PROVIDER")
        made.options["EXTERNAL"] = ""

    def _user_options(self, made: s.PrincipalDefinition) -> None:
        while True:
            key = self.advance().key
            if key == "PASSWORD":
                raise SqlError(
                    33233, "You can only create a user with a password in a contained database.", line=made.line
                )
            if key not in {"DEFAULT_SCHEMA", "NAME", "LOGIN"} or (key != "DEFAULT_SCHEMA" and made.action == "CREATE"):
                raise self.error(self.tokens[self.position - 1])
            self.expect("=")
            made.options[key] = self.identifier()
            if not self.take(","):
                return

    def alter_principal(self, line: int) -> s.Statement | None:
        """Behind ALTER; None when something else follows."""
        if self.take("LOGIN"):
            made = s.PrincipalDefinition(line, "ALTER", "LOGIN", self.identifier())
            if self.at_any("ENABLE", "DISABLE"):
                made.options[self.advance().key] = ""
            else:
                self.expect("WITH")
                self._login_options(made)
            return made
        if self.take("USER"):
            made = s.PrincipalDefinition(line, "ALTER", "USER", self.identifier())
            self.expect("WITH")
            self._user_options(made)
            return made
        server = self.take("SERVER", "ROLE")
        if server or self.take("ROLE"):
            role = self.identifier()
            if self.take("WITH"):
                self.expect("NAME", "=")
                return s.PrincipalDefinition(line, "ALTER", "ROLE", role, {"NAME": self.identifier()})
            add = self.take("ADD")
            if not add:
                self.expect("DROP")
            self.expect("MEMBER")
            return s.RoleMember(line, role, self.identifier(), add, server)
        if self.take("AUTHORIZATION"):
            return self._authorization(line)
        return None

    def _authorization(self, line: int) -> s.Statement:
        self.expect("ON")
        kind = self._securable_class() or "OBJECT"
        securable = self.name()
        self.expect("TO")
        owner = None if self.take("SCHEMA", "OWNER") else self.identifier()
        return s.Authorization(line, kind, securable, owner)

    def drop_principal(self, line: int) -> s.Statement | None:
        """Behind DROP; None when something else follows."""
        if not self.at_any("LOGIN", "USER", "ROLE"):
            return None
        kind = self.advance().key
        if_exists = self.take("IF", "EXISTS")
        return s.PrincipalDefinition(line, "DROP", kind, self.identifier(), if_exists=if_exists)

    # ---- GRANT, DENY, REVOKE --------

    def _permission(self) -> s.Statement:
        token = self.advance()
        made = s.Permission(token.line, token.key, [], "", (), [], [])
        if token.key == "REVOKE" and self.take("GRANT", "OPTION"):
            self.expect("FOR")
            made.only_option = True
        made.permissions = self.comma_list(self._permission_name)
        if self.take("ON"):
            made.securable_class = self._securable_class() or "OBJECT"
            made.securable = self.name()
            if self.at("("):
                made.columns = self.parenthesised(self.identifier)
        if not (self.take("TO") or (token.key == "REVOKE" and self.take("FROM"))):
            raise self.error()
        made.principals = self.comma_list(self._grantee)
        if token.key == "GRANT" and self.take("WITH"):
            self.expect("GRANT", "OPTION")
            made.grant_option = True
        if token.key != "GRANT":
            made.cascade = self.take("CASCADE")
        if self.at("AS"):
            raise errors.not_implemented(f"{token.key} .. AS", token.line)
        return made

    def _permission_name(self) -> tuple[str, list[str]]:
        words: list[str] = []
        while self.token.kind == "word" and not self.at_any("ON", "TO", "FROM"):
            words.append(self.advance().key)
        if not words:
            raise self.error()
        columns = self.parenthesised(self.identifier) if self.at("(") else []
        return " ".join(words), columns

    def _grantee(self) -> str:
        return self.advance().text if self.at("PUBLIC") else self.identifier()

    def _securable_class(self) -> str:
        """``SCHEMA::``, and the like; empty when the name follows at once."""
        for words in _CLASSES:
            if self.at(*words, "::"):
                self.position += len(words) + 1
                return " ".join(words)
        if self.peek().key == "::" or self.peek(2).key == "::" or self.peek(3).key == "::":
            words_ahead = [self.peek(index).key for index in range(3)]
            raise errors.refused(f"securable class {' '.join(words_ahead).partition(' ::')[0]}", self.line)
        return ""

    # ---- impersonation --------

    def execute_as(self, line: int) -> s.Statement:
        """Behind EXECUTE AS."""
        if self.at_any("LOGIN", "CALLER"):
            raise errors.not_implemented(f"EXECUTE AS {self.token.key}", line)
        self.expect("USER", "=")
        name = self.string()
        if self.at("WITH"):
            raise errors.not_implemented("EXECUTE AS .. WITH NO REVERT or COOKIE", line)
        return s.ExecuteAs(line, name)

    def _revert(self) -> s.Statement:
        line = self.expect("REVERT").line
        if self.at("WITH"):
            raise errors.not_implemented("REVERT WITH COOKIE", line)
        return s.Revert(line)
