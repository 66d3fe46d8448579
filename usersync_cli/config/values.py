"""What the values of a job may be: names that PostgreSQL takes whole, SQL, shares, schedules. Each function raises FieldError."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator

from usersync_cli.model import OWN_SCHEMA
from usersync_cli.settings import Address, FieldError

OnMissing: TypeAlias = Literal["keep", "mark", "delete"]
"""What may be done with rows that the source no longer has: nothing, set their deleted_at, delete them."""

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)\s*%")

# PostgreSQL's words that cannot stand for a table in FROM without quotes (pg_get_keywords, catcode R and T).
_RESERVED = set(
    """all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation column
    concurrently constraint create cross current_catalog current_date current_role current_schema current_time current_timestamp
    current_user default deferrable desc distinct do else end except false fetch for foreign freeze from full grant group having
    ilike in initially inner intersect into is isnull join lateral leading left like limit localtime localtimestamp natural not
    notnull null offset on only or order outer overlaps placing primary references returning right select session_user similar
    some symmetric system_user table tablesample then to trailing true union unique user using variadic verbose when where
    window with""".split()  # noqa: SIM905  a list literal would be a page long
)


def column_name(value: str) -> str:
    """A name that PostgreSQL takes whole: longer ones would be cut silently."""
    if not 1 <= len(value.encode()) <= 63 or "\0" in value:
        raise FieldError("must be a name of 1 to 63 bytes")
    return value


def table_name(value: str) -> str:
    """`table` or `schema.table`."""
    parts = value.split(".")
    if len(parts) > 2 or not all(1 <= len(part.encode()) <= 63 for part in parts):
        raise FieldError("must be table or schema.table, each 1 to 63 bytes")
    return value


def table_of_theirs(value: str) -> str:
    """Like a table's name, but of none in the schema where usersync keeps its own."""
    if value.startswith(f"{OWN_SCHEMA}."):
        advice = f"to move one of yours: ALTER TABLE {value} SET SCHEMA public;"
        raise FieldError(f"the schema {OWN_SCHEMA} holds usersync's own tables; {advice}")
    return table_name(value)


def loaded_table_name(value: str) -> str:
    """Like a table's name, and may have {stream} in it."""
    if re.search(r"[{}]", value.replace("{stream}", "")):
        raise FieldError("may hold {stream} and no other braces")
    return table_of_theirs(value)


def extract_name(value: str) -> str:
    """The name of an extract, which is the name of a table in the transform's SQL and is written there without quotes."""
    if not _IDENTIFIER.fullmatch(value):
        rule = "it must have lower-case letters, digits and _, no digit first, 63 at most"
        raise FieldError(f"as the name of a table in the transform, {rule}")
    if value.startswith(("pg_", "usersync_")):
        raise FieldError("names that begin with pg_ or usersync_ are reserved; choose another name")
    if value in _RESERVED:
        raise FieldError("is a reserved word of SQL; choose another name")
    return value


def sql_text(value: str) -> str:
    """SQL to be used inside other SQL: a final semicolon would end it."""
    text = value.rstrip().removesuffix(";").rstrip()
    if not text:
        raise FieldError("must not be empty")
    return text


def short_text(value: str) -> str:
    if not 1 <= len(value) <= 40 or not value.isprintable():
        raise FieldError("must be a word or two on one line, 40 characters at most")
    return value


def on_missing(value: object) -> object:
    if value not in get_args(OnMissing):
        raise FieldError(f"must be {_either(get_args(OnMissing))}")
    return value


def on_missing_there(value: object) -> object:
    if value not in {"keep", "disable"}:
        raise FieldError('must be "disable" or "keep": nobody is deleted there')
    return value


def _either(words: tuple[str, ...]) -> str:
    *first, last = (f'"{word}"' for word in words)
    return f"{', '.join(first)} or {last}"


def share(value: object) -> float:
    """`5%` as 0.05; more than half is never removed without a person. Raises ValueError."""
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    match = _SHARE.fullmatch(text)
    if not match or not 0 <= float(match[1]) <= 50:
        raise FieldError("must be a share such as 5%, from 0% to 50%")
    return float(match[1]) / 100


def cron_schedule(value: str) -> str:
    """Five fields, as cron reads them."""
    from datetime import UTC, datetime

    from cronsim import CronSim, CronSimError

    mistake = 'must be the five fields of a crontab line, such as "*/10 * * * *"'
    if len(value) > 200 or len(value.split()) != 5:
        raise FieldError(mistake)
    try:
        CronSim(value, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        raise FieldError(f"{mistake}; the field {field} is wrong" if field in _CRON_FIELDS else mistake) from None
    except (ValueError, TypeError, AssertionError, RecursionError):  # "L,1/2" and the like
        raise FieldError(mistake) from None
    return " ".join(value.split())


_CRON_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")

Share = Annotated[float, BeforeValidator(share)]
PingUrl = Annotated[str, Address("must be an http(s) address without ? or #, such as https://hc-ping.com/<uuid>")]
ColumnName = Annotated[str, AfterValidator(column_name)]
ExtractName = Annotated[str, AfterValidator(extract_name)]
Sql = Annotated[str, AfterValidator(sql_text)]
