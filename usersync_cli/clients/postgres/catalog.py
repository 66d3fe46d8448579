"""What PostgreSQL's catalog says of a table: columns, unique indexes, whatever decides how it can be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from usersync_cli.clients.postgres.connections import Connection, identifier, schemas


@dataclass(frozen=True)
class TableColumn:
    """A column of the target table, from the catalog."""

    name: str
    type: str  # with its length or precision
    bare: str  # without; "bpchar" and '"bit"', because `character` and `bit` alone would mean a length of 1
    not_null: bool
    has_default: bool
    identity: str  # "", "a" always, "d" by default
    generated: bool
    collation: str  # quoted, "" where it is the type's own
    is_enum: bool
    equality: bool
    base: str  # `bare` of the type that a domain is made of; of any other type its own
    composite: bool = False
    operator: str = "pg_catalog.="  # of equality, as its index has it: under our path citext would be compared as text


@dataclass(frozen=True)
class Table:
    """The target table as it is now."""

    name: sql.Composed
    oid: int
    kind: str
    has_triggers: bool  # the table or one of its partitions; one that is a foreign table may have any
    has_rules: bool
    columns: dict[str, TableColumn]
    unique: Sequence[frozenset[str]]  # columns of each usable unique index
    relname: str = ""  # as the server's errors call it

    @property
    def watched(self) -> bool:
        """Whether something of the table's own may change what we write, or take it away again."""
        return self.has_triggers or self.has_rules


def describe(tx: Connection, name: str) -> Table | None:
    """The table of this name as a person's SQL would find it (`connections.schemas`), or None."""
    found = locate(tx, name)
    row = tx.execute(_TABLE, (found,)).fetchone() if found else None
    if row is None:
        return None
    oid, schema, relname, kind, has_triggers, has_rules = row
    columns = {c[0]: TableColumn(*c) for c in tx.execute(_COLUMNS, (oid,)).fetchall()}
    unique = [frozenset(names) for (names,) in tx.execute(_UNIQUE, (oid,)).fetchall()]
    return Table(
        sql.SQL("{}.{}").format(identifier(schema), identifier(relname)), oid, kind, has_triggers, has_rules, columns, unique, relname
    )


def has_one_text(type_: str) -> bool:
    """Whether two values of this type (its bare name) are equal only if their texts are; of text, unless a collation says otherwise."""
    return type_ in _ONE_TEXT


def locate(tx: Connection, name: str) -> int | None:
    """The oid of the table or view of this name, `table` or `schema.table`; None where there is none."""
    *schema, table = name.split(".", 1)
    for part in (*schema, table):
        identifier(part)
    row = tx.execute(_LOCATE, (schema or path(tx), table)).fetchone()
    return int(row[0]) if row else None


def path(tx: Connection) -> list[str]:
    """All schemas in which a person's SQL finds a name without one, PostgreSQL's own included."""
    found = schemas(tx)
    return [*found] if "pg_catalog" in found else ["pg_catalog", *found]


def has_equality(tx: Connection, type_: str) -> bool:
    """Whether values of this type can be compared with IS DISTINCT FROM."""
    query = f"SELECT {_EQUALITY.format(type='%s::regtype')}"
    return tx.execute(query.encode(), (type_,)).fetchone() == (True,)


def equality(tx: Connection, type_: str) -> str:
    """The operator of equality of a type, as `TableColumn.operator`."""
    base = "(SELECT COALESCE(NULLIF(t.typbasetype, 0), t.oid) AS oid FROM pg_catalog.pg_type t WHERE t.oid = %s::regtype) AS base"
    query = f"SELECT COALESCE({_OPERATOR}, 'pg_catalog.=') FROM {base}"  # noqa: S608  our own text
    ((operator,),) = tx.execute(query.encode(), (type_,)).fetchall()
    return str(operator)


def others_may_create(connection: Connection) -> list[tuple[str, str, bool]]:
    """(schema, role, whether it owns it), quoted, of each schema in which a person's names are looked for: who else may put something
    there. No superusers, and none that our role is a member of, or that is a member of ours; PUBLIC is one."""
    found = connection.execute(_OTHERS, (list(schemas(connection)),)).fetchall()
    return [(str(schema), str(role), bool(owns)) for schema, role, owns in found]


def unique_values(tx: Connection, table: Table, names: Sequence[str]) -> list[str]:
    """Which of these columns any unique or exclusion index depends on, by expressions and predicates too."""
    return [name for (name,) in tx.execute(_UNIQUE_VALUES, (table.oid, list(names))).fetchall()]


_ONE_TEXT = {
    "smallint", "integer", "bigint", "uuid", "boolean", "date", "bytea", "text", "character varying", "bpchar",
    "timestamp with time zone", "timestamp without time zone",
}  # fmt: skip

_LOCATE = """
    SELECT c.oid FROM unnest(%s::text[]) WITH ORDINALITY AS s(name, i)
      JOIN pg_catalog.pg_namespace n ON n.nspname = s.name
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 't')
     ORDER BY s.i LIMIT 1
"""


def has_partition(tx: Connection, table: Table) -> bool:
    """Whether a partitioned table has any place for a row."""
    query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(%s) WHERE isleaf AND level > 0)"
    return tx.execute(query, (table.oid,)).fetchone() == (True,)


def read_by(tx: Connection, view: Table) -> list[str]:
    """The tables that a view reads, quoted."""
    return [name for (name,) in tx.execute(_READ_BY, (view.oid,)).fetchall()]


def locked_sequences(tx: Connection, table: Table, columns: Sequence[str]) -> list[str]:
    """Sequences of these columns' defaults that the role may not use, quoted; an identity column's needs no right."""
    return [name for (name,) in tx.execute(_LOCKED, (table.oid, list(columns))).fetchall()]


def behind(tx: Connection, table: Table, columns: Sequence[str]) -> list[str]:
    """Sequences of these columns, quoted, that would give a number that a row has already."""
    found = tx.execute(_SEQUENCES, (table.oid, list(columns))).fetchall()
    query = sql.SQL("SELECT pg_catalog.max({0}) > COALESCE(pg_catalog.pg_sequence_last_value({1}), 0) FROM {2}")
    return [
        str(name)
        for oid, name, column in found
        if tx.execute(query.format(identifier(column), sql.Literal(oid), table.name)).fetchone() == (True,)
    ]


# Only those that may be looked at; each numbers upwards. An index makes the largest number cheap to find.
_SEQUENCES = """
    SELECT s.oid, pg_catalog.format('%%I.%%I', n.nspname, s.relname), a.attname
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
      JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
       AND d.refobjid = %s AND a.attname = ANY (%s) AND pg_catalog.has_table_privilege(d.refobjid, 'SELECT')
       AND CASE WHEN s.relkind = 'S' THEN pg_catalog.has_sequence_privilege(s.oid, 'USAGE, SELECT') END
       AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = d.refobjid AND i.indkey[0] = a.attnum)
     ORDER BY 2
"""
_READ_BY = """
    SELECT DISTINCT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
      FROM pg_catalog.pg_rewrite r
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
      JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE r.ev_class = %s ORDER BY 1
"""
_LOCKED = """
    SELECT DISTINCT pg_catalog.format('%%I.%%I', n.nspname, s.relname)
      FROM pg_catalog.pg_attrdef f
      JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass
      JOIN pg_catalog.pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
      JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
     WHERE f.adrelid = %s AND a.attname = ANY (%s)
       AND CASE WHEN s.relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(s.oid, 'USAGE, UPDATE') END
     ORDER BY 1
"""
_TABLE = """
    SELECT c.oid, n.nspname, c.relname, c.relkind::text,
           EXISTS (SELECT FROM pg_catalog.pg_trigger g
                    WHERE (g.tgrelid = c.oid OR g.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p))
                      AND NOT g.tgisinternal AND g.tgenabled <> 'D')
           OR EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) p JOIN pg_catalog.pg_class f ON f.oid = p.relid AND f.relkind = 'f'),
           EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = %s
"""

# pg_has_role() says yes to every question of a superuser, so membership is followed by hand. The owner of the database is the
# only member of pg_database_owner.
_OTHERS = """
WITH RECURSIVE me AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user),
     ups AS (SELECT m.roleid AS oid FROM pg_catalog.pg_auth_members m JOIN me ON m.member = me.oid
             UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN ups ON m.member = ups.oid),
     downs AS (SELECT m.member AS oid FROM pg_catalog.pg_auth_members m JOIN me ON m.roleid = me.oid
               UNION SELECT m.member FROM pg_catalog.pg_auth_members m JOIN downs ON m.roleid = downs.oid),
     may AS (SELECT n.nspname, a.grantee, a.grantee = n.nspowner AS owns
               FROM pg_catalog.pg_namespace n
              CROSS JOIN LATERAL (SELECT x.grantee FROM aclexplode(n.nspacl) AS x WHERE x.privilege_type = 'CREATE'
                                  UNION SELECT n.nspowner) AS a
              WHERE n.nspname = ANY (%s::text[]) AND n.nspname <> 'pg_catalog'),
     real AS (SELECT may.nspname, may.owns,
                     CASE WHEN r.rolname = 'pg_database_owner'
                          THEN (SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = current_database())
                          ELSE may.grantee END AS grantee
                FROM may LEFT JOIN pg_catalog.pg_roles r ON r.oid = may.grantee)
SELECT DISTINCT quote_ident(real.nspname), COALESCE(quote_ident(r.rolname), 'PUBLIC'), real.owns
  FROM real LEFT JOIN pg_catalog.pg_roles r ON r.oid = real.grantee
 WHERE r.rolsuper IS NOT TRUE AND real.grantee NOT IN (SELECT oid FROM me UNION ALL SELECT oid FROM ups UNION ALL SELECT oid FROM downs)
 ORDER BY 1, 2
"""

# An operator class for hash or btree is what IS DISTINCT FROM needs; for an array, that of its elements.
_EQUALITY = """EXISTS (
    SELECT FROM pg_catalog.pg_type y
      JOIN pg_catalog.pg_type e
        ON e.oid = CASE WHEN y.typcategory = 'A' AND y.typelem <> 0 THEN y.typelem WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END
     WHERE y.oid = {type}
       AND (e.typtype IN ('e', 'r', 'm', 'c', 'd') OR EXISTS (
            SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
             WHERE o.opcdefault AND (o.opcintype = e.oid OR EXISTS (
                   SELECT FROM pg_catalog.pg_cast k
                    WHERE k.castsource = e.oid AND k.casttarget = o.opcintype AND k.castmethod = 'b' AND k.castcontext = 'i')))))"""

# That of the type's own default operator class. Where it has none, PostgreSQL's own = is the one: text for varchar, or that of
# all arrays, enums, ranges and rows, which asks the classes of what they hold.
_OPERATOR = """(
    SELECT quote_ident(n.nspname) || '.' || p.oprname
      FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
      JOIN pg_catalog.pg_amop s ON s.amopfamily = o.opcfamily AND s.amoplefttype = o.opcintype AND s.amoprighttype = o.opcintype
                               AND s.amopstrategy = CASE m.amname WHEN 'btree' THEN 3 ELSE 1 END
      JOIN pg_catalog.pg_operator p ON p.oid = s.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
     WHERE o.opcdefault AND o.opcintype = base.oid ORDER BY m.amname LIMIT 1)"""

_COLUMNS = f"""
    SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.format_type(a.atttypid, -1),
           a.attnotnull OR base.not_null, a.atthasdef OR t.typdefault IS NOT NULL, a.attidentity::text, a.attgenerated <> '',
           CASE WHEN a.attcollation <> t.typcollation
                THEN (SELECT quote_ident(n.nspname) || '.' || quote_ident(l.collname)
                        FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                       WHERE l.oid = a.attcollation)
                ELSE '' END,
           t.typtype = 'e', {_EQUALITY.format(type="a.atttypid")},
           pg_catalog.format_type(base.oid, -1), base.typtype = 'c', COALESCE({_OPERATOR}, 'pg_catalog.=')
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      CROSS JOIN LATERAL (
           WITH RECURSIVE b AS (SELECT t.oid, t.typtype, t.typbasetype, t.typnotnull AS not_null
               UNION ALL SELECT y.oid, y.typtype, y.typbasetype, b.not_null OR y.typnotnull
                           FROM pg_catalog.pg_type y JOIN b ON y.oid = b.typbasetype)
           SELECT b.oid, b.typtype, b.not_null FROM b WHERE b.typtype <> 'd') AS base
     WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum
"""  # noqa: S608  our own text

# Unique, complete, immediate: what ON CONFLICT can use.
_UNIQUE = """
    SELECT array_agg(a.attname::text)
      FROM pg_catalog.pg_index i
      JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord) ON k.ord <= i.indnkeyatts
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
     GROUP BY i.indexrelid
"""

# Columns that any unique or exclusion index depends on, expressions and predicates included.
_UNIQUE_VALUES = """
    SELECT DISTINCT a.attname::text
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0 AND (a.attnum = ANY (i.indkey::int2[]) OR EXISTS (
           SELECT FROM pg_catalog.pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
     WHERE i.indrelid = %s AND (i.indisunique OR i.indisexclusion) AND a.attname = ANY (%s)
"""
