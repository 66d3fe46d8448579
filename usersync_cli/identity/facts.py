"""What the rows of a table say about whose they are: cut out of them in SQL, and kept in temp tables until it is decided.

A fact is one row's: its id, and for each rule the text that its SQL gave and the host in it. A rule's SQL is a person's, so it is
parsed by PostgreSQL alone before it stands in a statement of ours, and runs along that person's search path.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres import queries
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import identifier, listed
from usersync_cli.clients.postgres.transactions import as_user
from usersync_cli.errors import ConfigError
from usersync_cli.model import Identity, IdentityRule

EXACT = "="
"""In front of a host whose rule has a uuid: somebody's own list, in which each domain stands for itself."""
LONGEST = 500
"""Characters of an id: 4 bytes each fit into an index, whatever they are. A longer text, or an empty one, is nobody's id."""
_LENGTH = 1000  # characters of a rule's text that are kept
_ADDRESS = sql.Literal(r'([^\s,;:<>"()]+@[^\s,;:<>"()?/]+)')  # the first e-mail address in a text
_ODD = sql.Literal(' \t\r\n,;:<>"()?/')  # a text without these is one address, and needs no expression, which takes most of the time
_PAGE = sql.Literal(r"^[^\s@<]*[/?#][^\s@]*@")  # a web address with an @ in its path, as of somebody's page: no e-mail address
_HOST = sql.Literal(r"^(?:[A-Za-z][A-Za-z0-9+.-]*:/{1,3}|//)*(?:[^/?#@\s]*@)?(\[[^]]*\]|[^/?#:@\s]+)")  # RFC 3986, section 3.2
_UUID = sql.Literal("^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$")

_SEVERAL = "it gives several values, of which none is first"
_JSON = "it gives json, not text; write ->> for the last ->, or put #>> '{}' behind it"
_ARRAY = "it gives an array, not text"
_NO_TEXT = {114: _JSON, 3802: _JSON, 2249: _SEVERAL, 1009: _ARRAY, 1015: _ARRAY}  # by the type's oid, which PostgreSQL never changes


class Facts:
    """The facts of one identity, in temp tables of the transaction; `number` tells several of one transaction apart."""

    def __init__(self, identity: Identity, number: int) -> None:
        self.identity = identity
        self.table = sql.SQL("pg_temp.{}").format(sql.Identifier(f"usersync_facts_{number}"))
        self.undone = sql.SQL("pg_temp.{}").format(sql.Identifier(f"usersync_undone_{number}"))
        self.hosts = sql.SQL("pg_temp.{}").format(sql.Identifier(f"usersync_hosts_{number}"))
        self.decided = sql.SQL("pg_temp.{}").format(sql.Identifier(f"usersync_decided_{number}"))
        self.texts: dict[Hashable, bytes] = {}  # statements over them, once they were made

    @property
    def ranks(self) -> range:
        """The rules by number, from 1."""
        return range(1, len(self.identity.rules) + 1)

    def open(self, tx: Connection) -> None:
        """Make the tables, where this transaction has not made them: a savepoint that was rolled back took them away."""
        columns = [sql.SQL('v{0} text, h{0} text COLLATE "C", u{0} text').format(sql.SQL(str(rank))) for rank in self.ranks]
        tx.execute(sql.SQL("""
            CREATE TEMP TABLE IF NOT EXISTS {} (id text COLLATE "C", {}) ON COMMIT DROP;
            CREATE TEMP TABLE IF NOT EXISTS {} (id text COLLATE "C", because text) ON COMMIT DROP
        """).format(self.table, listed(columns), self.undone))  # fmt: skip

    def are_there(self, tx: Connection) -> bool:
        """Whether this transaction has any."""
        (found,) = tx.execute("SELECT to_regclass(%s) IS NOT NULL", (self.table.as_string(tx),)).fetchall()
        return bool(found[0])

    def collect(self, tx: Connection, rows: sql.Composable, roles: Sequence[str]) -> None:
        """Add the facts of these rows, a SELECT of the columns that are loaded, called r. Addresses of `roles` say nothing.

        Raises what PostgreSQL says of a value, and ConfigError where a rule's SQL is wrong.
        """
        statement = sql.SQL("INSERT INTO {} SELECT z.id{} FROM {} AS z WHERE pg_catalog.length(z.id) BETWEEN 1 AND {}").format(
            self.table, sql.SQL("").join(self._column(rank) for rank in self.ranks), self._cut(rows), sql.Literal(LONGEST)
        )
        with as_user(tx):
            try:
                tx.execute(statement, (list(roles),) * len(self.identity.rules))
            except psycopg.ProgrammingError as error:
                raise self._wrong(queries.wrong(error)) from error

    def check(self, tx: Connection, rows: sql.Composable) -> None:
        """Try the rules on these rows, without reading one. Raises ConfigError where the SQL of one is wrong; changes nothing."""
        for rule in self.identity.rules:
            for text in (rule.domain, rule.uuid):
                if text:
                    self._try(tx, rule, text, rows)

    def _try(self, tx: Connection, rule: IdentityRule, text: str, rows: sql.Composable) -> None:
        """Whether a rule's SQL is one expression that gives one text for each row.

        The text is alone in the first statement, so it can close no bracket of ours. In WHERE, PostgreSQL takes no function that
        looks at several rows or gives several: which rows come together would decide then.
        """
        try:
            with tx.transaction(force_rollback=True), as_user(tx):
                _parse(tx, text)
                own = sql.SQL("(\n{}\n)").format(sql.SQL(text))
                query = sql.SQL("SELECT {0} FROM ({1}) AS r WHERE ({0})::pg_catalog.text IS NULL LIMIT 0").format(own, rows)
                columns = tx.execute(query).description or ()
        except (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.DataError) as error:
            raise self._wrong(queries.wrong(error).removesuffix(" in WHERE"), rule) from error
        wrong = _NO_TEXT.get(columns[0].type_code) if len(columns) == 1 else _SEVERAL
        if wrong:
            raise self._wrong(wrong, rule)

    def _wrong(self, what: str, rule: IdentityRule | None = None) -> ConfigError:
        which = f"rule {rule.name} of " if rule else ""
        return ConfigError(
            f"identity: {which}app {self.identity.app}: {what}",
            hint="a rule is one SQL expression that gives one text for each row, over the columns that the step loads",
        )

    def _column(self, rank: int) -> sql.Composed:
        """Text, host and uuid of a rule, where there is a host."""
        has = sql.SQL("z.h{0} IS NOT NULL AND z.h{0} OPERATOR(pg_catalog.<>) ''").format(sql.SQL(str(rank)))
        rule = self.identity.rules[rank - 1]
        host = sql.SQL("z.h{}").format(sql.SQL(str(rank)))
        if rule.uuid:
            has = sql.SQL("({} OR z.u{} IS NOT NULL)").format(has, sql.SQL(str(rank)))
            host = sql.SQL("{} OPERATOR(pg_catalog.||) {}").format(sql.Literal(EXACT), host)
        return sql.SQL(", CASE WHEN {has} THEN pg_catalog.left(z.v{n}, {most}) END, CASE WHEN {has} THEN {host} END, z.u{n}").format(
            has=has, n=sql.SQL(str(rank)), most=sql.Literal(_LENGTH), host=host
        )

    def _cut(self, rows: sql.Composable) -> sql.Composed:
        """The rows with each rule's text, host and uuid: a text with an @ and no // is an e-mail address, any other a web address."""
        texts, mails, hosts = [], [], []
        for rank, rule in enumerate(self.identity.rules, 1):
            n = sql.SQL(str(rank))
            uuid = _theirs(rule.uuid) if rule.uuid else sql.SQL("NULL::pg_catalog.text")
            lower = sql.SQL('pg_catalog.lower(({})::pg_catalog.text COLLATE pg_catalog."C")').format(uuid)
            texts.append(
                sql.SQL("pg_catalog.btrim(({})::pg_catalog.text, E' \\t\\r\\n') AS v{n}, {} AS u{n}").format(
                    _theirs(rule.domain), lower, n=n
                )
            )
            mails.append(sql.SQL("""
                x.v{n}, CASE WHEN pg_catalog.regexp_like(x.u{n}, {uuid}) THEN x.u{n} END AS u{n},
                CASE WHEN pg_catalog.strpos(x.v{n}, '@') OPERATOR(pg_catalog.>) 0
                          AND pg_catalog.strpos(x.v{n}, '//') OPERATOR(pg_catalog.=) 0
                          AND NOT pg_catalog.regexp_like(x.v{n}, {page})
                     THEN CASE WHEN pg_catalog.translate(x.v{n}, {odd}, '') OPERATOR(pg_catalog.=) x.v{n}
                               THEN pg_catalog.lower(x.v{n} COLLATE pg_catalog."C")
                               ELSE COALESCE(pg_catalog.lower(pg_catalog.substring(x.v{n}, {address}) COLLATE pg_catalog."C"), '@')
                          END
                END AS m{n}
            """).format(n=n, address=_ADDRESS, odd=_ODD, page=_PAGE, uuid=_UUID))  # fmt: skip
            hosts.append(sql.SQL("""
                y.v{n}, y.u{n},
                CASE WHEN y.m{n} IS NULL THEN pg_catalog.lower(pg_catalog.substring(y.v{n}, {host}) COLLATE pg_catalog."C")
                     WHEN pg_catalog.split_part(pg_catalog.split_part(y.m{n}, '@', 1), '+', 1)
                          OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.text[]) THEN NULL
                     ELSE pg_catalog.split_part(y.m{n}, '@', -1) END AS h{n}
            """).format(n=n, host=_HOST))  # fmt: skip
        return sql.SQL("""
            (SELECT y.id, {hosts} FROM (
                SELECT x.id, {mails} FROM (
                    SELECT (r.{id})::pg_catalog.text AS id, {texts} FROM ({rows}) AS r OFFSET 0
                ) AS x OFFSET 0
            ) AS y OFFSET 0)
        """).format(hosts=listed(hosts), mails=listed(mails), texts=listed(texts), id=identifier(self.identity.id), rows=rows)


def _parse(tx: Connection, text: str) -> None:
    """Raises SyntaxError where a text is not what stands behind SELECT. Its names may be those of a row, which it has not here."""
    try:
        with tx.transaction():
            queries.parse(tx, f"SELECT\n{text}\n")
    except psycopg.errors.SyntaxError:
        raise
    except psycopg.ProgrammingError:
        pass


def _theirs(text: str) -> sql.Composed:
    """A person's expression on lines of its own, so that a comment at its end ends."""
    return sql.SQL("(\n{}\n)").format(sql.SQL(text.replace("%", "%%")))  # it was parsed alone
