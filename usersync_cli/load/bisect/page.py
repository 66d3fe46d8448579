"""Which records of a page of documents the transform or a cast fails on: each is tried inside the server, as a parameter."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from usersync_cli.clients.postgres.arrays import Texts
from usersync_cli.clients.postgres.connections import Connection
from usersync_cli.clients.postgres.sql import and_, identifier, listed, or_, statements
from usersync_cli.load.binding import Own
from usersync_cli.load.bisect.attempts import Cause
from usersync_cli.load.bisect.halving import loop
from usersync_cli.load.merge import Merge, key_text
from usersync_cli.load.rejects import BAD, NO_KEY, condition, detail
from usersync_cli.load.spelling import Spelling

KEY_DIFFERS = "key_differs"  # the transform gives the row another key than the record's
DOCUMENT = "the document itself"  # instead of a column: PostgreSQL can't read it


def failing(  # noqa: PLR0913, PLR0917  the page, and how it goes into its table
    tx: Connection, merge: Merge, own: Own, spelling: Spelling, columns: Sequence[Texts], keys: Sequence[str], *, each: bool
) -> dict[int, Cause]:
    """The records on which the transform or a cast fails, by their place; empty where that does not explain it.

    `merge` has the transform over PART, `columns` are key, document and version of the page. With `each`, every record is tried
    by itself, and those that have rows with another key, or with none, are found too. What is made for it is left to a rollback.
    """
    tx.execute("CREATE TEMP SEQUENCE usersync_at")
    with own.path(tx):  # which the inner one takes over
        tx.execute(_trying(merge, spelling, tx))
    tx.execute(_searching(merge, spelling, tx))
    values = [*columns, each or len(keys) == 1, *spelling.parts(keys)]
    call = _SEARCH.format(", ".join(f"${i + 1}" for i in range(len(values))))
    found = psycopg.RawCursor(tx).execute(call.encode(), values).fetchall()
    return {number - 1: _cause(*why) for number, *why in found}


def _cause(state: str, column: str | None, constraint: str | None, table: str | None) -> Cause:
    """What the server said, as a cause; `column` "" is the document itself."""
    where = DOCUMENT if column == "" else detail(column, constraint, table)
    return Cause(state if state in {NO_KEY, KEY_DIFFERS} else condition(state), where)


def _trying(tried: Merge, spelling: Spelling, tx: Connection) -> sql.Composed:
    """The function that holds the transform, with its search path: over the records that it is given, all (0) or one column."""
    columns = [
        sql.SQL("IF usersync_which OPERATOR(pg_catalog.=) {} THEN PERFORM pg_catalog.count(w.{}) FROM ({}) AS w; END IF;").format(
            sql.Literal(i), f.column, tried.wanted
        )
        for i, f in enumerate(tried.fields, 1)
    ]
    body = sql.SQL(statements(__name__)["try"]).format(
        tried=tried.wanted,
        key=key_text(tried.key, "w"),
        same=and_(
            sql.SQL("w.{} OPERATOR({}) {}").format(
                identifier(name), sql.SQL(tried.field(name).operator), spelling.cast(i, sql.SQL(f"usersync_part_{i}[1]"))
            )
            for i, name in enumerate(spelling.key)
        ),
        without=or_(sql.SQL("w.{} IS NULL").format(identifier(name)) for name in tried.key),
        columns=sql.SQL(" ").join(columns),
    )
    return sql.SQL(
        "CREATE FUNCTION pg_temp.usersync_try"
        " (usersync_keys pg_catalog.text[], usersync_data pg_catalog.text[], usersync_versions pg_catalog.text[],"
        " usersync_lo bigint, usersync_which int{},"
        " OUT usersync_without bigint, OUT usersync_odd bigint)"
        " LANGUAGE plpgsql SET search_path FROM CURRENT AS {}"
    ).format(sql.SQL("".join(f", usersync_part_{i} pg_catalog.text[]" for i in range(len(spelling.key)))), sql.Literal(body.as_string(tx)))


def _searching(tried: Merge, spelling: Spelling, tx: Connection) -> sql.Composed:
    """The function that _SEARCH calls. `tried` is the transform over PART."""
    pieces = {
        "no_key": sql.Literal(NO_KEY),
        "key_differs": sql.Literal(KEY_DIFFERS),
        "bad": sql.SQL(BAD),
        "last": sql.Literal(len(tried.fields)),
        "parts": sql.SQL("".join(f", usersync_part_{i}[usersync_lo:usersync_hi]" for i in range(len(spelling.key)))),
        "names": sql.SQL("ARRAY[{}]::text[]").format(listed(sql.Literal(f.name) for f in tried.fields)),
    }
    texts = statements(__name__)
    body = loop(
        declare=sql.SQL(_DECLARE), start=sql.SQL(_START), **{name: sql.SQL(texts[name]).format(**pieces) for name in ("attempt", "alone")}
    )
    return sql.SQL(
        "CREATE FUNCTION pg_temp.usersync_search"
        " (usersync_keys text[], usersync_data text[], usersync_versions text[], usersync_each boolean{})"
        " RETURNS TABLE (usersync_ord int, usersync_state text, usersync_column text, usersync_constraint text, usersync_table text)"
        " LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS {}"
    ).format(sql.SQL("".join(f", usersync_part_{i} text[]" for i in range(len(spelling.key)))), sql.Literal(body.as_string(tx)))


# Some of the page, the first of which is number usersync_lo. The sequence, which no rollback takes back, notes how far their reading
# came: mostly it says at once which record was bad.
PART = sql.SQL("""
    SELECT p.key, p.data, p.version, p.ord,
           pg_catalog.setval('pg_temp.usersync_at'::pg_catalog.regclass, p.ord)
      FROM (SELECT g.key, g.data, g.version, (g.ord OPERATOR(pg_catalog.+) usersync_lo) OPERATOR(pg_catalog.-) 1 AS ord
              FROM unnest(usersync_keys, usersync_data, usersync_versions) WITH ORDINALITY AS g(key, data, version, ord)) AS p
    OFFSET 0
""")
_SEARCH = "SELECT * FROM pg_temp.usersync_search({})"
_DECLARE = """
  usersync_last int := 1;
  usersync_try int;
  usersync_without bigint;
  usersync_odd bigint;
"""
# With usersync_each, every record is a range of its own from the beginning.
_START = """
  usersync_highs := ARRAY[cardinality(usersync_keys)];
  IF usersync_each THEN
    usersync_lows := ARRAY(SELECT i FROM generate_series(cardinality(usersync_keys), 1, -1) AS i);
    usersync_highs := usersync_lows;
  END IF;
  usersync_depth := cardinality(usersync_lows);
"""
