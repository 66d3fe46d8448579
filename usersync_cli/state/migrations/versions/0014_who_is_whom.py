"""Who is whom: apps, customers, and which id of which app is which customer; what a person decided, and what other programs may read.

Revision: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0013"

# Text is compared by its bytes everywhere here, so that the same facts give the same map on every server.
TABLES = (
    # Apps are known before they have a mapping. added_by: "job NAME", whose step names it, or the person who added it.
    """
    CREATE TABLE usersync.apps (
        name text COLLATE "C" PRIMARY KEY,
        added_at timestamptz NOT NULL DEFAULT now(),
        added_by text NOT NULL
    )
    """,
    # Which steps fill an app, from which column of which table, by which rules: a hash of these, once all its rows were looked at.
    # relation: the table's quoted name. live: the quoted column that marks rows which are gone; NULL where there is none.
    """
    CREATE TABLE usersync.identities (
        app text COLLATE "C" NOT NULL,
        job text NOT NULL, step text NOT NULL, stream text NOT NULL,
        relation text NOT NULL, id_column text NOT NULL, live text,
        fingerprint text, lists text NOT NULL,
        run_id bigint NOT NULL, evaluated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (app, job, step, stream)
    )
    """,
    # A uuid is never changed or removed. domain: NULL where the customer gave it to the one that it was merged into.
    # merged_into: as a person said it; it may be merged itself (`root_of`). created_by: "job NAME" or the person.
    """
    CREATE TABLE usersync.customers (
        uuid uuid PRIMARY KEY,
        domain text COLLATE "C" UNIQUE,
        merged_into uuid CHECK (merged_into <> uuid),
        created_at timestamptz NOT NULL DEFAULT now(),
        created_by text NOT NULL,
        run_id bigint
    )
    """,
    "CREATE INDEX customers_merged ON usersync.customers (merged_into) WHERE merged_into IS NOT NULL",
    # Each domain that a customer had before another, until when: it goes on meaning that customer, and nobody else.
    """
    CREATE TABLE usersync.former_domains (
        domain text COLLATE "C" NOT NULL,
        customer uuid NOT NULL,
        until timestamptz NOT NULL DEFAULT now(),
        renamed_by text NOT NULL,
        reason text
    )
    """,
    "CREATE INDEX former_domains_domain ON usersync.former_domains (domain)",
    "CREATE INDEX former_domains_customer ON usersync.former_domains (customer)",
    # Each merge that there was. domain: what `customer` gave to the other, to be given back; NULL where it kept its own.
    """
    CREATE TABLE usersync.merges (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer uuid NOT NULL,
        merged_into uuid NOT NULL,
        domain text COLLATE "C",
        merged_at timestamptz NOT NULL DEFAULT now(), merged_by text NOT NULL, reason text NOT NULL,
        undone_at timestamptz, undone_by text, undone_reason text
    )
    """,
    "CREATE UNIQUE INDEX merges_standing ON usersync.merges (customer) WHERE undone_at IS NULL",
    # The mappings that hold now, one for each id of an app. There are no foreign keys: a check for each of a million rows costs as
    # much as the rows, customers are never removed, and an app only without mappings.
    # rule, value, domain: what decided, what it looked at, what it found; rule NULL: a person. pinned: a person decided it.
    # left_at: a pinned id whose record has left its source; others are closed then.
    """
    CREATE TABLE usersync.mappings (
        app text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        customer uuid NOT NULL,
        rule text, value text, domain text COLLATE "C",
        pinned boolean NOT NULL DEFAULT false,
        job text, step text, run_id bigint,
        decided_by text, reason text,
        opened_at timestamptz NOT NULL DEFAULT now(),
        left_at timestamptz,
        PRIMARY KEY (app, id)
    )
    """,
    "CREATE INDEX mappings_customer ON usersync.mappings (customer, app)",
    # Those that held once. closed_because: left, crowded, listed, moved, removed.
    """
    CREATE TABLE usersync.closed_mappings (
        LIKE usersync.mappings INCLUDING DEFAULTS,
        closed_at timestamptz NOT NULL DEFAULT now(),
        closed_because text NOT NULL,
        closed_by text,
        closed_run_id bigint
    )
    """,
    "CREATE INDEX closed_mappings_id ON usersync.closed_mappings (app, id)",
    "CREATE INDEX closed_mappings_customer ON usersync.closed_mappings (customer)",
    # What a person has to decide, once: an answer holds for good. kind:
    #   domain    the id (app, id) is mapped; its record says `domain` now, which is another customer
    #   returned  the id is pinned, its record left its source and came back
    #   uuid      somebody else's list calls `domain` by `uuid`; here it is another customer
    #   renamed   somebody else's list gives `uuid` the domain `domain`; here it has another
    # status: open, accepted (what was found now holds), rejected (what was there holds), ignored, over (what was found is so no more).
    """
    CREATE TABLE usersync.identity_conflicts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('domain', 'returned', 'uuid', 'renamed')),
        app text COLLATE "C", app_id text COLLATE "C",
        domain text COLLATE "C", uuid uuid,
        rule text, value text,
        job text, step text, run_id bigint,
        found_at timestamptz NOT NULL DEFAULT now(),
        status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'accepted', 'rejected', 'ignored', 'over')),
        answered_at timestamptz, answered_by text, reason text,
        UNIQUE NULLS NOT DISTINCT (app, app_id, kind, domain, uuid)
    )
    """,
    "CREATE INDEX identity_conflicts_open ON usersync.identity_conflicts (app, app_id) WHERE status = 'open'",
    # Domains that so many ids of an app have that they identify nobody there; for good, so that a number that swings moves nobody.
    """
    CREATE TABLE usersync.crowded_domains (
        app text COLLATE "C" NOT NULL, domain text COLLATE "C" NOT NULL,
        ids bigint NOT NULL, since timestamptz NOT NULL DEFAULT now(), run_id bigint NOT NULL,
        PRIMARY KEY (app, domain)
    )
    """,
    # Which database role may read which app's rows.
    """
    CREATE TABLE usersync.app_roles (
        app text COLLATE "C" NOT NULL, role name NOT NULL,
        granted_at timestamptz NOT NULL DEFAULT now(), granted_by text NOT NULL,
        PRIMARY KEY (app, role)
    )
    """,
)
FUNCTIONS = (
    # The uuid of a domain, the same everywhere: RFC 9562, appendix B.2, UUIDv8 from SHA-256 of the namespace DNS and the name.
    r"""
    CREATE FUNCTION usersync.uuid_of(domain text) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT (pg_catalog.substr(h.h, 1, 12) || '8' || pg_catalog.substr(h.h, 14, 3)
                || pg_catalog.translate(pg_catalog.substr(h.h, 17, 1), '0123456789abcdef', '89ab89ab89ab89ab')
                || pg_catalog.substr(h.h, 18, 15))::uuid
          FROM (SELECT pg_catalog.encode(pg_catalog.sha256('\x6ba7b8109dad11d180b400c04fd430c8'::bytea
                                                           || pg_catalog.convert_to(domain, 'UTF8')), 'hex') AS h) AS h
    )
    """,
    # The customer that a customer resolves to, whatever it was merged into; NULL for an unknown uuid.
    """
    CREATE FUNCTION usersync.root_of(customer uuid) RETURNS uuid LANGUAGE sql STABLE STRICT PARALLEL SAFE
    BEGIN ATOMIC
        WITH RECURSIVE up(uuid, merged_into) AS (
            SELECT c.uuid, c.merged_into FROM usersync.customers AS c WHERE c.uuid = customer
            UNION ALL
            SELECT c.uuid, c.merged_into FROM up JOIN usersync.customers AS c ON c.uuid = up.merged_into
        )
        SELECT up.uuid FROM up WHERE up.merged_into IS NULL;
    END
    """,
)
# What other programs read. A view reads with its owner's rights, and `current_user` in it is whoever asks: so a role that was
# granted an app needs no right on any table, and sees its own app's rows alone. Who may write mappings sees all of them.
VIEWS = (
    """
    CREATE VIEW usersync.own_apps WITH (security_barrier) AS
    SELECT a.name AS app FROM usersync.apps AS a
     WHERE pg_catalog.has_table_privilege(current_user, 'usersync.mappings'::regclass, 'INSERT')
        OR EXISTS (SELECT FROM usersync.app_roles AS r JOIN pg_catalog.pg_roles AS p ON p.rolname = r.role
                    WHERE r.app = a.name AND pg_catalog.pg_has_role(current_user, p.oid, 'USAGE'))
    """,
    """
    CREATE VIEW usersync.customer_ids WITH (security_barrier) AS
    SELECT m.app, m.id, c.uuid, c.domain
      FROM usersync.mappings AS m JOIN usersync.customers AS c ON c.uuid = m.customer
     WHERE c.merged_into IS NULL AND m.app IN (SELECT o.app FROM usersync.own_apps AS o)
    UNION ALL
    SELECT m.app, m.id, r.uuid, r.domain
      FROM usersync.customers AS c JOIN usersync.mappings AS m ON m.customer = c.uuid
     CROSS JOIN LATERAL (
        WITH RECURSIVE up(uuid, domain, merged_into) AS (
            SELECT i.uuid, i.domain, i.merged_into FROM usersync.customers AS i WHERE i.uuid = c.merged_into
            UNION ALL
            SELECT i.uuid, i.domain, i.merged_into FROM up JOIN usersync.customers AS i ON i.uuid = up.merged_into
        )
        SELECT up.uuid, up.domain FROM up WHERE up.merged_into IS NULL
     ) AS r
     WHERE c.merged_into IS NOT NULL AND m.app IN (SELECT o.app FROM usersync.own_apps AS o)
    """,
)
# For a role that was granted more than it should have, such as SELECT on all tables: still its own app's rows alone.
POLICIES = (
    *(
        f"ALTER TABLE usersync.{table} ENABLE ROW LEVEL SECURITY"
        for table in ("mappings", "closed_mappings", "customers", "identity_conflicts")
    ),
    "CREATE POLICY own_app ON usersync.mappings USING (app IN (SELECT o.app FROM usersync.own_apps AS o))",
    "CREATE POLICY own_app ON usersync.closed_mappings USING (app IN (SELECT o.app FROM usersync.own_apps AS o))",
    """
    CREATE POLICY writers ON usersync.customers
     USING (pg_catalog.has_table_privilege(current_user, 'usersync.mappings'::regclass, 'INSERT'))
    """,
    """
    CREATE POLICY writers ON usersync.identity_conflicts
     USING (pg_catalog.has_table_privilege(current_user, 'usersync.mappings'::regclass, 'INSERT'))
    """,
)
UP = (*TABLES, *FUNCTIONS, *VIEWS, *POLICIES)
DOWN = (
    "DROP VIEW usersync.customer_ids",
    *(f"DROP POLICY own_app ON usersync.{table}" for table in ("mappings", "closed_mappings")),
    "DROP VIEW usersync.own_apps",
    "DROP FUNCTION usersync.root_of(uuid)",
    "DROP FUNCTION usersync.uuid_of(text)",
    """
    DROP TABLE usersync.app_roles, usersync.crowded_domains, usersync.identity_conflicts, usersync.closed_mappings, usersync.mappings,
               usersync.merges, usersync.former_domains, usersync.customers, usersync.identities, usersync.apps
    """,
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
