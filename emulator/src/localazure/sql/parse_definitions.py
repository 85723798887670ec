"""Recursive descent over definitions: CREATE, ALTER, DROP, RENAME, TRUNCATE, COPY INTO and administration.

https://learn.microsoft.com/en-us/sql/t-sql/statements/create-table-azure-sql-data-warehouse
https://learn.microsoft.com/en-us/sql/t-sql/statements/copy-into-transact-sql
"""

from __future__ import annotations

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.parse_security import SecurityParser
from localazure.sql.results import SqlError

_ADMINISTRATION = {
    ("WORKLOAD", "GROUP"),
    ("WORKLOAD", "CLASSIFIER"),
    ("MASTER", "KEY"),
    ("DATABASE", "SCOPED"),
    ("DATABASE",),
    ("SYMMETRIC", "KEY"),
    ("CERTIFICATE",),
    ("SECURITY", "POLICY"),
    ("DATABASE", "ENCRYPTION"),
    ("EXTERNAL", "LIBRARY"),
    ("CREDENTIAL",),
}
_KIND_WORDS = frozenset(
    {"GROUP", "CLASSIFIER", "KEY", "SCOPED", "CREDENTIAL", "POLICY", "ENCRYPTION", "VIEW", "CONFIGURATION"}
)
_SECRET_KEYS = frozenset({"SECRET", "PASSWORD", "BY PASSWORD", "ENCRYPTION BY PASSWORD"})


class DefinitionParser(SecurityParser):
    """Statements that change the catalogue."""

    def create(self) -> s.Statement:
        start = self.token
        self.advance()
        replace = False
        if self.take("OR"):
            self.expect("ALTER")
            replace = True
        if self.take("TABLE"):
            return self._create_table(start.line)
        if self.at_any("VIEW", "MATERIALIZED"):
            return self._view(start.start, start.line, alter=False, replace=replace)
        if self.at_any("PROCEDURE", "PROC"):
            return self._procedure(start.start, start.line, alter=False, replace=replace)
        if self.take("SCHEMA"):
            name = self.identifier() if not self.at("AUTHORIZATION") else ""
            owner = self.identifier() if self.take("AUTHORIZATION") else None
            return s.CreateSchema(start.line, name or owner or "", owner)
        if self.take("STATISTICS"):
            name = self.identifier()
            self.expect("ON")
            table = self.name()
            columns = self.parenthesised(self.identifier)
            if self.take("WHERE"):
                self.expression()
            if self.take("WITH"):
                self._loose_options()
            return s.Statistics(start.line, "CREATE", table, name, columns)
        if self.at_any("INDEX", "CLUSTERED", "NONCLUSTERED", "UNIQUE"):
            return self._create_index(start.line)
        if self.take("EXTERNAL"):
            return self._create_external(start.line)
        if self.take("REMOTE"):
            raise errors.not_implemented("CREATE REMOTE TABLE", start.line)
        if self.at("FUNCTION"):
            return self._function(start.start, start.line, alter=False, replace=replace)
        if self.at("TRIGGER") or self.at("TYPE") or self.at("SEQUENCE") or self.at("SYNONYM"):
            raise errors.refused(f"CREATE {self.token.key}", start.line)
        return self.create_principal(start.line) or self._administration("CREATE", start.line)

    # ---- tables --------

    def _create_table(self, line: int) -> s.Statement:
        name = self.name()
        columns: list[s.ColumnDefinition] = []
        keys: list[s.KeyDefinition] = []
        names: list[str] = []
        if self.at("(") and self.peek().kind in {"word", "quoted"} and self.peek(2).key in {",", ")"}:
            names = self.parenthesised(self.identifier)
        elif self.at("("):
            columns, keys = self._table_elements()
        options = self.table_options() if self.take("WITH") else s.TableOptions(line)
        if self.take("AS"):
            if columns:
                raise self.error()
            if self.at("CLONE"):
                raise errors.refused("CLONE", line)
            return s.CreateTableAs(line, name, names, options, self.query())
        if not columns:
            raise self.error()
        return s.CreateTable(line, name, columns, keys, options)

    def _table_elements(self) -> tuple[list[s.ColumnDefinition], list[s.KeyDefinition]]:
        columns: list[s.ColumnDefinition] = []
        keys: list[s.KeyDefinition] = []
        self.expect("(")
        while True:
            if self.at_any("CONSTRAINT", "PRIMARY", "UNIQUE", "FOREIGN", "CHECK"):
                keys.append(self._table_key())
            else:
                columns.append(self.column_definition(keys))
            if not self.take(","):
                break
        self.expect(")")
        return columns, keys

    def _table_key(self) -> s.KeyDefinition:
        line = self.line
        name = self.identifier() if self.take("CONSTRAINT") else ""
        return self._key(name, None, line)

    def _key(self, name: str, column: str | None, line: int) -> s.KeyDefinition:
        if self.at_any("FOREIGN", "REFERENCES", "CHECK"):
            raise errors.refused(f"{self.token.key} constraint", line)
        if self.take("PRIMARY"):
            self.expect("KEY")
            kind = "PRIMARY KEY"
        else:
            self.expect("UNIQUE")
            kind = "UNIQUE"
        if self.at("CLUSTERED"):
            raise errors.refused("CLUSTERED key", line, "Use NONCLUSTERED .. NOT ENFORCED.")
        self.take("NONCLUSTERED")
        columns = [column] if column is not None else []
        if self.at("("):
            columns = self.parenthesised(self._key_column)
        if not self.take("NOT", "ENFORCED"):
            # https://learn.microsoft.com/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-table-constraints
            raise SqlError(
                104467,
                "Enforced unique constraints are not supported. To create an unenforced unique constraint you "
                "must include the NOT ENFORCED syntax as part of your statement.",
                line=line,
            )
        return s.KeyDefinition(line, kind, name, columns)

    def _key_column(self) -> str:
        name = self.identifier()
        if not self.take("ASC"):
            self.take("DESC")
        return name

    def column_definition(self, keys: list[s.KeyDefinition]) -> s.ColumnDefinition:
        line = self.line
        if self.peek().key == "AS":
            raise errors.refused("computed column", line)
        column = s.ColumnDefinition(line, self.identifier(), self.data_type())
        constraint = ""
        while not self.at_any(",", ")", ";", "") or self.token.kind not in {"op", "end"}:
            if self.take("COLLATE"):
                column.collation = self.advance().text
            elif self.take("NOT", "NULL"):
                column.nullable = False
            elif self.take("NULL"):
                column.nullable = True
            elif self.take("IDENTITY"):
                column.identity = (1, 1)
                if self.at("("):
                    seed, step = self.parenthesised(self.integer)
                    column.identity = (seed, step)
                column.nullable = False
            elif self.take("CONSTRAINT"):
                constraint = self.identifier()
            elif self.take("DEFAULT"):
                start = self.token.start
                column.default = self.value()
                column.default_text = self.text[start : self.tokens[self.position - 1].end]
                column.default_name, constraint = constraint, ""
            elif self.at_any("PRIMARY", "UNIQUE", "REFERENCES", "CHECK", "FOREIGN"):
                keys.append(self._key(constraint, column.name, self.line))
                constraint = ""
            elif self.at("MASKED"):
                raise errors.no_security("MASKED column", line)
            elif self.at("SPARSE") or self.at("ROWGUIDCOL") or self.at("FILESTREAM"):
                raise errors.not_implemented(f"{self.token.key} column", line)
            else:
                break
        return column

    def table_options(self) -> s.TableOptions:
        """``(DISTRIBUTION = HASH(a), CLUSTERED COLUMNSTORE INDEX, PARTITION (d RANGE RIGHT FOR VALUES (..)))``."""
        options = s.TableOptions(self.line)
        self.expect("(")
        while True:
            self._table_option(options)
            if not self.take(","):
                break
        self.expect(")")
        return options

    def _table_option(self, options: s.TableOptions) -> None:
        if self.take("DISTRIBUTION"):
            self.expect("=")
            word = self.advance().key
            if word == "HASH":
                options.hash_columns = self.parenthesised(self.identifier)
            elif word not in {"ROUND_ROBIN", "REPLICATE"}:
                raise self.error(self.tokens[self.position - 1])
            options.distribution = word
        elif self.take("HEAP"):
            options.index = "HEAP"
        elif self.take("CLUSTERED", "COLUMNSTORE", "INDEX"):
            options.index = "COLUMNSTORE"
            if self.take("ORDER"):
                options.index_columns = self.parenthesised(self.identifier)
        elif self.take("CLUSTERED", "INDEX"):
            options.index = "CLUSTERED"
            options.index_columns = self.parenthesised(self._key_column)
        elif self.take("PARTITION"):
            self.expect("(")
            options.partition_column = self.identifier()
            self.expect("RANGE")
            options.range_right = self.take("RIGHT")
            if not options.range_right:
                self.take("LEFT")
            self.expect("FOR", "VALUES")
            self.expect("(")
            options.boundaries = [] if self.at(")") else self.comma_list(self.value)
            self.expect(")")
            self.expect(")")
        elif self.at("LOCATION") and self.peek().key == "=":
            self.position += 2  # LOCATION = USER_DB of temporary tables
            self.advance()
        elif self.take("FOR_APPEND"):
            pass
        else:
            raise self.error()

    # ---- indexes, external objects --------

    def _create_index(self, line: int) -> s.Statement:
        if self.take("UNIQUE"):
            raise errors.refused("UNIQUE index", line)
        clustered = self.take("CLUSTERED")
        if not clustered:
            self.take("NONCLUSTERED")
        columnstore = self.take("COLUMNSTORE")
        self.expect("INDEX")
        name = self.identifier()
        self.expect("ON")
        table = self.name()
        columns = self.parenthesised(self._key_column) if self.at("(") else []
        if columnstore and self.take("ORDER"):
            columns = self.parenthesised(self.identifier)
        if self.take("WITH"):
            self._loose_options()
        return s.Index(line, "CREATE", table, name, columns, clustered)

    def _create_external(self, line: int) -> s.Statement:
        if self.at("DATA", "SOURCE") or (self.at("FILE") and self.peek().key == "FORMAT"):
            kind = f"{self.advance().key} {self.advance().key}"
            name = self.identifier()
            self.expect("WITH")
            return s.CreateExternal(line, kind, name, self.key_values())
        self.expect("TABLE")
        name_parts = self.name()
        columns: list[s.ColumnDefinition] = []
        if self.at("("):
            columns, keys = self._table_elements()
            if keys:
                raise errors.refused("constraint on an external table", line)
        self.expect("WITH")
        options = self.key_values()
        if not self.take("AS"):
            return s.CreateExternalTable(line, name_parts, columns, options, None, "")
        start = self.token.start
        query = self.query()
        return s.CreateExternalTable(
            line, name_parts, columns, options, query, self.text[start : self.tokens[self.position - 1].end]
        )

    def key_values(self, prefix: str = "") -> dict[str, str]:
        """``(KEY = value, GROUP (KEY = value))`` flattened; keys upper case, nested keys after ``GROUP.``."""
        found: dict[str, str] = {}
        self.expect("(")
        while not self.at(")"):
            words = [self.advance().key]
            while self.token.kind == "word" and not self.at_any("=", "("):
                words.append(self.advance().key)
            key = prefix + " ".join(words)
            if self.at("("):
                found.update(self.key_values(f"{key}."))
            else:
                self.expect("=")
                if self.at("("):
                    found.update(self.key_values(f"{key}."))
                else:
                    sign = "-" if self.take("-") else ""
                    token = self.advance()
                    if token.kind == "op":
                        raise self.error(token)
                    found[key] = sign + token.text
            if not self.take(","):
                break
        self.expect(")")
        return found

    def _loose_options(self) -> None:
        """Options of statistics and indexes: they tune, and change no result."""
        if self.at("("):
            self._skip_parentheses()
            return
        while (
            self.token.kind in {"word", "int"}
            and self.at_any("FULLSCAN", "SAMPLE", "PERCENT", "RESAMPLE", "ROWS", "NORECOMPUTE")
        ) or self.token.kind == "int":
            self.advance()
            self.take(",")

    # ---- ALTER, DROP, RENAME, TRUNCATE, COPY --------

    def alter(self) -> s.Statement:
        start = self.token
        self.advance()
        if self.at("TABLE"):
            self.advance()
            return self._alter_table(start.line)
        if self.take("SCHEMA"):
            schema = self.identifier()
            self.expect("TRANSFER")
            if self.take("OBJECT"):
                self.take("::")
            return s.Transfer(start.line, schema, self.name())
        if self.at_any("VIEW"):
            return self._view(start.start, start.line, alter=True, replace=False)
        if self.at("MATERIALIZED"):
            return self._administration("ALTER", start.line)
        if self.at_any("PROCEDURE", "PROC"):
            return self._procedure(start.start, start.line, alter=True, replace=False)
        if self.at("FUNCTION"):
            return self._function(start.start, start.line, alter=True, replace=False)
        if self.take("INDEX"):
            name = "ALL" if self.take("ALL") else self.identifier()
            self.expect("ON")
            table = self.name()
            action = self.advance().key
            if action not in {"REBUILD", "REORGANIZE", "SET", "DISABLE"}:
                raise self.error(self.tokens[self.position - 1])
            if self.take("PARTITION"):
                self.expect("=")
                if not self.take("ALL"):
                    self.integer()
            if self.take("WITH") or self.at("("):
                self._skip_parentheses()
            return s.Index(start.line, action, table, name, [])
        return self.alter_principal(start.line) or self._administration("ALTER", start.line)

    def _alter_table(self, line: int) -> s.Statement:
        name = self.name()
        if self.take("SWITCH"):
            partition = self._partition()
            self.expect("TO")
            target = self.name()
            target_partition = self._partition()
            truncate = False
            if self.take("WITH"):
                self.expect("(")
                self.expect("TRUNCATE_TARGET", "=")
                truncate = self.take("ON") or not self.take("OFF")
                self.expect(")")
            return s.SwitchPartition(line, name, partition, target, target_partition, truncate)
        if self.at_any("SPLIT", "MERGE"):
            split = self.advance().key == "SPLIT"
            self.expect("RANGE")
            self.expect("(")
            value = self.value()
            self.expect(")")
            return s.ChangeBoundary(line, name, split, value)
        if self.take("ADD"):
            columns: list[s.ColumnDefinition] = []
            keys: list[s.KeyDefinition] = []
            defaults: list[tuple[str, str, str]] = []
            while True:
                if self.at("DEFAULT") or (self.at("CONSTRAINT") and self.peek(2).key == "DEFAULT"):
                    defaults.append(self._default_for())
                elif self.at_any("CONSTRAINT", "PRIMARY", "UNIQUE", "FOREIGN", "CHECK"):
                    keys.append(self._table_key())
                else:
                    columns.append(self.column_definition(keys))
                if not self.take(","):
                    break
            return s.AddColumns(line, name, columns, keys, defaults)
        if self.take("ALTER", "COLUMN"):
            if self.peek(1).key in {"ADD", "DROP"} and self.peek(2).key == "MASKED":
                raise errors.no_security("MASKED column", line)
            return s.AlterColumn(line, name, self.column_definition([]))
        if self.take("DROP"):
            if self.take("COLUMN"):
                self.take("IF", "EXISTS")
                return s.DropColumns(line, name, self.comma_list(self.identifier), [])
            self.take("CONSTRAINT")
            return s.DropColumns(line, name, [], [self.identifier()])
        if self.take("REBUILD"):
            if self.take("PARTITION"):
                self.expect("=")
                if not self.take("ALL"):
                    self.integer()
            if self.take("WITH"):
                self._skip_parentheses()
            return s.Index(line, "REBUILD", name, "ALL", [])
        raise self.error()

    def _default_for(self) -> tuple[str, str, str]:
        """``CONSTRAINT name DEFAULT constant FOR column``."""
        constraint = self.identifier() if self.take("CONSTRAINT") else ""
        self.expect("DEFAULT")
        start = self.token.start
        self.value()
        text = self.text[start : self.tokens[self.position - 1].end]
        self.expect("FOR")
        return constraint, text, self.identifier()

    def _partition(self) -> int | None:
        return self.integer() if self.take("PARTITION") else None

    def drop(self) -> s.Statement:
        line = self.expect("DROP").line
        principal = self.drop_principal(line)
        if principal is not None:
            return principal
        kind = self.advance().key
        if kind == "EXTERNAL":
            kind = f"EXTERNAL {self.advance().key}"
            if kind in {"EXTERNAL DATA", "EXTERNAL FILE"}:
                kind = f"{kind} {self.advance().key}"
        elif kind == "PROC":
            kind = "PROCEDURE"
        elif kind == "SENSITIVITY":
            raise errors.not_implemented("DROP SENSITIVITY CLASSIFICATION", line)
        elif kind in {"WORKLOAD", "MASTER", "DATABASE", "SECURITY", "SYMMETRIC"} and self.token.kind == "word":
            if kind != "DATABASE" or self.at_any("SCOPED", "ENCRYPTION"):
                kind = f"{kind} {self.advance().key}"
            if kind in {"DATABASE SCOPED", "DATABASE ENCRYPTION"}:
                kind = f"{kind} {self.advance().key}"
        elif kind == "INDEX":
            if_exists = self.take("IF", "EXISTS")
            name = self.name()
            if self.take("ON"):
                return s.Index(line, "DROP", self.name(), name[-1], [])
            return s.Index(line, "DROP", name[:-1], name[-1], [])
        known = {
            "TABLE",
            "VIEW",
            "PROCEDURE",
            "FUNCTION",
            "SCHEMA",
            "STATISTICS",
            "EXTERNAL TABLE",
            "EXTERNAL DATA SOURCE",
            "EXTERNAL FILE FORMAT",
            "WORKLOAD GROUP",
            "WORKLOAD CLASSIFIER",
            "MASTER KEY",
            "CERTIFICATE",
            "SYMMETRIC KEY",
            "DATABASE ENCRYPTION KEY",
            "DATABASE SCOPED CREDENTIAL",
            "CREDENTIAL",
            "DATABASE",
            "SECURITY POLICY",
        }
        if kind not in known:
            raise errors.refused(f"DROP {kind}", line)
        if_exists = self.take("IF", "EXISTS")
        names = [()] if kind in {"MASTER KEY", "DATABASE ENCRYPTION KEY"} else self.comma_list(self.name)
        return s.Drop(line, kind, list(names), if_exists)

    def truncate(self) -> s.Statement:
        line = self.expect("TRUNCATE").line
        self.expect("TABLE")
        name = self.name()
        partitions: list[tuple[int, int]] = []
        if self.take("WITH"):
            self.expect("(")
            self.expect("PARTITIONS")
            partitions = self.parenthesised(self._partition_range)
            self.expect(")")
        return s.Truncate(line, name, partitions)

    def _partition_range(self) -> tuple[int, int]:
        first = self.integer()
        return first, self.integer() if self.take("TO") else first

    def rename(self) -> s.Statement:
        line = self.expect("RENAME").line
        if self.take("DATABASE"):
            raise errors.not_implemented("RENAME DATABASE", line)
        self.expect("OBJECT")
        self.take("::")
        name = self.name()
        column = self.identifier() if self.take("COLUMN") else None
        self.expect("TO")
        return s.Rename(line, name, column, self.identifier())

    def copy_into(self) -> s.Statement:
        line = self.expect("COPY").line
        self.expect("INTO")
        name = self.name()
        columns = self.parenthesised(self._copy_column) if self.at("(") else []
        self.expect("FROM")
        locations = self.comma_list(self.string)
        options: dict[str, str] = {}
        if self.take("WITH"):
            options = self.key_values()
        options.update({f"OPTION.{key}": value for key, value in self.option_clause().items()})
        return s.CopyInto(line, name, columns, locations, options)

    def _copy_column(self) -> s.CopyColumn:
        line = self.line
        column = s.CopyColumn(line, self.identifier(), None, None)
        if self.take("DEFAULT"):
            column.default = self.value()
        if self.token.kind == "int":
            column.ordinal = self.integer()
        return column

    # ---- administration --------

    def _administration(self, action: str, line: int) -> s.Statement:
        """CREATE or ALTER of an object that configures the service: its options are kept, secrets are not."""
        ahead = [self.peek(index).key for index in range(3)]
        if not any(tuple(ahead[: len(words)]) == words for words in _ADMINISTRATION) and ahead[0] != "MATERIALIZED":
            raise self.error()
        words = [self.advance().key]
        while self.token.key in _KIND_WORDS and words != ["MASTER", "KEY"]:
            words.append(self.advance().key)
        kind = " ".join(words)
        name = ""
        if kind not in {"MASTER KEY", "DATABASE ENCRYPTION KEY", "DATABASE SCOPED CONFIGURATION"}:
            name = ".".join(self.name())
        options: dict[str, str] = {}
        if kind in {"WORKLOAD GROUP", "WORKLOAD CLASSIFIER"}:
            self.expect("WITH")
            return s.Administration(line, f"{action} {kind}", name, self.key_values())
        if kind == "MATERIALIZED VIEW":
            options["ACTION"] = self.advance().key
        key: list[str] = []
        while self.token.kind != "end" and not self.at(";") and not self._next_statement():
            token = self.advance()
            if token.key == "COLLATE" and kind == "DATABASE":
                options["COLLATE"] = self.advance().text
            elif token.kind == "word":
                key.append(token.key)
            elif token.kind in {"string", "nstring"} or token.kind in {"int", "decimal", "quoted"}:
                text = " ".join(key[-3:]) or "VALUE"
                secret = any(text.endswith(word) for word in _SECRET_KEYS)
                options[text] = "" if secret else token.text
                key = []
        if key:
            options[" ".join(key)] = ""
        return s.Administration(line, f"{action} {kind}", name, options)

    def _next_statement(self) -> bool:
        return self.at_any("SELECT", "CREATE", "EXEC", "EXECUTE", "DECLARE", "INSERT", "GRANT", "IF")
