"""The eight columns of a contact in CSV, as tools that read them expect, out of a document of Teamleader's `contacts.info`.

Only Teamleader's documents look like this: `emails[{type, email}]`, `telephones[{type, number}]`, `web_url`, `remarks`,
`custom_fields[{definition: {id}, value}]`. What a document lacks, or has as null, is NULL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from psycopg import sql

from usersync_cli.clients.postgres.sql import listed
from usersync_cli.errors import ConfigError
from usersync_cli.settings import suggestion
from usersync_cli.shapes import ExportShape

_DOCUMENT = "tl_content"

_FIELD = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # not all of Teamleader's ids are of RFC 4122's version 4

# Where each column comes from, as a jsonpath. No document of Teamleader's has or_id, cp_name_catpro or accountmanager: an
# account that knows them keeps them in custom fields of its own, whose ids are given with --column.
_PATHS = {
    "or_id": "$.or_id",
    "cp_name_catpro": "$.cp_name_catpro",
    "email": '$.emails[*] ? (@.type == "primary").email',
    "phone": '$.telephones[*] ? (@.type == "phone").number',
    "website": "$.website",
    "form_url": "$.web_url",
    "description": "$.remarks",
    "accountmanager": "$.accountmanager",
}


def _select(table: sql.Composable, fields: Mapping[str, str]) -> sql.Composed:
    """The SELECT of all columns, as text, over a table with documents; it has no WHERE yet, and calls the table t.

    `fields`: column -> id of the custom field that it shall come from instead.
    """
    paths = _PATHS | {column: _custom(field) for column, field in fields.items()}
    columns = [
        sql.SQL("jsonb_path_query_first(t.{}::jsonb, {}) #>> '{{}}' AS {}").format(
            sql.Identifier(_DOCUMENT), sql.Literal(path), sql.Identifier(column)
        )
        for column, path in paths.items()
    ]
    return sql.SQL("SELECT {} FROM {} AS t").format(listed(columns), table)


def _lacks(table: sql.Composable, field: str) -> sql.Composed:
    """A SELECT of one boolean: there are documents, and none has this custom field."""
    return sql.SQL("SELECT EXISTS (SELECT FROM {0}) AND NOT EXISTS (SELECT FROM {0} AS t WHERE t.{1}::jsonb @? {2})").format(
        table, sql.Identifier(_DOCUMENT), sql.Literal(_custom(field))
    )


def _field(given: str) -> tuple[str, str]:
    """`or_id=581bc693-...` as column and id of a custom field. Raises ConfigError for anything else."""
    column, _, id_ = given.partition("=")
    if column not in _PATHS:
        raise ConfigError(f'--column: contacts have no column "{column}"{suggestion(column, list(_PATHS))}')
    if not _FIELD.fullmatch(id_.lower()):
        raise ConfigError(
            f"--column {column}: the id of a custom field is expected behind =",
            hint="such as 581bc693-feb9-416a-806a-90c2fa4bc5c6; Teamleader's customFieldDefinitions.list has them",
        )
    return column, id_.lower()


def _custom(id_: str) -> str:
    return f'$.custom_fields[*] ? (@.definition.id == "{id_}").value'


CONTACTS = ExportShape(
    stream="contacts",
    noun="contact",
    vendor="Teamleader",
    table="tl_contacts",
    document=_DOCUMENT,
    columns=tuple(_PATHS),
    select=_select,
    lacks=_lacks,
    field=_field,
)
