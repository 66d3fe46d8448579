"""Who is whom: apps, customers, and which id of which app is which customer; and what a person decided.

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
    # A uuid is never changed or removed. domain: NULL where the customer lends it to the one that it resolves to.
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
    # Each merge that there was. domain: what `customer` lends to the one that it resolves to, which has none; NULL where it keeps its own.
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
    # What a customer was before each change, until when. A trigger writes it: `customer_ids_at` looks it up.
    """
    CREATE TABLE usersync.customer_history (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer uuid NOT NULL,
        domain text COLLATE "C", merged_into uuid,
        until timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX customer_history_customer ON usersync.customer_history (customer, until, id)",
    "CREATE INDEX customer_history_merged ON usersync.customer_history (merged_into) WHERE merged_into IS NOT NULL",
    # Merged customers that resolve to the same one are a cluster, so that a chain of any length is resolved in one step. The same
    # trigger keeps them: two clusters become one by renaming the smaller.
    """
    CREATE TABLE usersync.clusters (
        cluster bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        root uuid NOT NULL UNIQUE,
        size bigint NOT NULL
    )
    """,
    "CREATE TABLE usersync.merged_customers (customer uuid PRIMARY KEY, cluster bigint NOT NULL)",
    "CREATE INDEX merged_customers_cluster ON usersync.merged_customers (cluster)",
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
    # Those that held once. closed_because: left, crowded, listed, moved, removed, returned. closed_by and closed_reason: a person's.
    """
    CREATE TABLE usersync.closed_mappings (
        LIKE usersync.mappings INCLUDING DEFAULTS,
        closed_at timestamptz NOT NULL DEFAULT now(),
        closed_because text NOT NULL,
        closed_by text, closed_reason text,
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
        job text, step text, stream text, run_id bigint,
        found_at timestamptz NOT NULL DEFAULT now(),
        status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'accepted', 'rejected', 'ignored', 'over')),
        answered_at timestamptz, answered_by text, reason text,
        UNIQUE NULLS NOT DISTINCT (app, app_id, kind, domain, uuid)
    )
    """,
    "CREATE INDEX identity_conflicts_open ON usersync.identity_conflicts (app, app_id) WHERE status = 'open'",
    "CREATE INDEX identity_conflicts_domain ON usersync.identity_conflicts (domain) WHERE status = 'open'",
    "CREATE INDEX identity_conflicts_uuid ON usersync.identity_conflicts (uuid) WHERE status = 'open' AND uuid IS NOT NULL",
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
        SELECT COALESCE(k.root, c.uuid)
          FROM usersync.customers AS c
          LEFT JOIN usersync.merged_customers AS m ON m.customer = c.uuid
          LEFT JOIN usersync.clusters AS k ON k.cluster = m.cluster
         WHERE c.uuid = root_of.customer;
    END
    """,
    # Takes a customer that was merged, with all that were merged into it, out of its cluster. The larger part keeps the number.
    """
    CREATE FUNCTION usersync.leave_cluster(leaving uuid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        old usersync.clusters;
        below uuid[];
        other bigint;
    BEGIN
        SELECT k.* INTO STRICT old FROM usersync.merged_customers AS m JOIN usersync.clusters AS k ON k.cluster = m.cluster
         WHERE m.customer = leaving;
        DELETE FROM usersync.merged_customers AS m WHERE m.customer = leaving;
        WITH RECURSIVE down(uuid) AS (
            SELECT c.uuid FROM usersync.customers AS c WHERE c.merged_into = leaving
            UNION ALL
            SELECT c.uuid FROM down JOIN usersync.customers AS c ON c.merged_into = down.uuid
        )
        SELECT COALESCE(array_agg(d.uuid), '{}') INTO below FROM down AS d;
        IF cardinality(below) = old.size - 1 THEN
            UPDATE usersync.clusters AS k SET root = leaving, size = cardinality(below) WHERE k.cluster = old.cluster AND old.size > 1;
            DELETE FROM usersync.clusters AS k WHERE k.cluster = old.cluster AND old.size = 1;
        ELSIF cardinality(below) * 2 > old.size THEN
            UPDATE usersync.clusters AS k SET root = leaving, size = cardinality(below) WHERE k.cluster = old.cluster;
            INSERT INTO usersync.clusters (root, size) VALUES (old.root, old.size - 1 - cardinality(below)) RETURNING cluster INTO other;
            UPDATE usersync.merged_customers AS m SET cluster = other WHERE m.cluster = old.cluster AND m.customer <> ALL (below);
        ELSE
            UPDATE usersync.clusters AS k SET size = old.size - 1 - cardinality(below) WHERE k.cluster = old.cluster;
            IF cardinality(below) > 0 THEN
                INSERT INTO usersync.clusters (root, size) VALUES (leaving, cardinality(below)) RETURNING cluster INTO other;
                UPDATE usersync.merged_customers AS m SET cluster = other WHERE m.customer = ANY (below);
            END IF;
        END IF;
    END
    $$
    """,
    # Puts a customer, with all that were merged into it, into the cluster of the one that it is merged into.
    """
    CREATE FUNCTION usersync.join_cluster(joining uuid, merged_into uuid) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        top uuid := COALESCE((SELECT k.root FROM usersync.merged_customers AS m JOIN usersync.clusters AS k ON k.cluster = m.cluster
                               WHERE m.customer = join_cluster.merged_into), join_cluster.merged_into);
        own usersync.clusters;
        theirs usersync.clusters;
        number bigint;
    BEGIN
        IF top = joining THEN
            RAISE EXCEPTION 'a customer cannot be merged into one that was merged into it' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        SELECT * INTO own FROM usersync.clusters AS k WHERE k.root = joining;
        SELECT * INTO theirs FROM usersync.clusters AS k WHERE k.root = top;
        IF own.cluster IS NULL AND theirs.cluster IS NULL THEN
            INSERT INTO usersync.clusters (root, size) VALUES (top, 1) RETURNING cluster INTO number;
        ELSIF own.cluster IS NULL OR own.size <= theirs.size THEN
            number := theirs.cluster;
            DELETE FROM usersync.clusters AS k WHERE k.cluster = own.cluster;
            UPDATE usersync.merged_customers AS m SET cluster = number WHERE m.cluster = own.cluster;
            UPDATE usersync.clusters AS k SET size = theirs.size + COALESCE(own.size, 0) + 1 WHERE k.cluster = number;
        ELSE
            number := own.cluster;
            DELETE FROM usersync.clusters AS k WHERE k.cluster = theirs.cluster;
            UPDATE usersync.merged_customers AS m SET cluster = number WHERE m.cluster = theirs.cluster;
            UPDATE usersync.clusters AS k SET root = top, size = own.size + COALESCE(theirs.size, 0) + 1 WHERE k.cluster = number;
        END IF;
        INSERT INTO usersync.merged_customers (customer, cluster) VALUES (joining, number);
    END
    $$
    """,
    # With the owner's rights, as a view has them: who may change a customer needs no right on what follows from that.
    """
    CREATE FUNCTION usersync.customer_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on AS $$
    BEGIN
        IF TG_RELID <> 'usersync.customers'::regclass THEN
            RAISE EXCEPTION 'this trigger is for usersync.customers' USING ERRCODE = 'insufficient_privilege';
        END IF;
        IF TG_OP = 'UPDATE' THEN
            INSERT INTO usersync.customer_history (customer, domain, merged_into) VALUES (OLD.uuid, OLD.domain, OLD.merged_into);
            IF NEW.merged_into IS NOT DISTINCT FROM OLD.merged_into THEN
                RETURN NULL;
            END IF;
            IF OLD.merged_into IS NOT NULL THEN
                PERFORM usersync.leave_cluster(OLD.uuid);
            END IF;
        END IF;
        IF NEW.merged_into IS NOT NULL THEN
            PERFORM usersync.join_cluster(NEW.uuid, NEW.merged_into);
        END IF;
        RETURN NULL;
    END
    $$
    """,
    # Or whoever may use the schema could put it on a table of their own, and write clusters and history by that.
    "REVOKE EXECUTE ON FUNCTION usersync.customer_changed() FROM PUBLIC",
    """
    CREATE TRIGGER made_merged AFTER INSERT ON usersync.customers FOR EACH ROW WHEN (NEW.merged_into IS NOT NULL)
    EXECUTE FUNCTION usersync.customer_changed()
    """,
    """
    CREATE TRIGGER changed AFTER UPDATE ON usersync.customers
    FOR EACH ROW WHEN ((OLD.domain, OLD.merged_into) IS DISTINCT FROM (NEW.domain, NEW.merged_into))
    EXECUTE FUNCTION usersync.customer_changed()
    """,
)
UP = (*TABLES, *FUNCTIONS)
DOWN = (
    """
    DROP TABLE usersync.app_roles, usersync.crowded_domains, usersync.identity_conflicts, usersync.closed_mappings, usersync.mappings,
               usersync.customer_history, usersync.merges, usersync.former_domains, usersync.identities, usersync.apps
    """,
    "DROP FUNCTION usersync.root_of(uuid)",
    "DROP TABLE usersync.customers",
    "DROP FUNCTION usersync.customer_changed()",
    "DROP FUNCTION usersync.join_cluster(uuid, uuid)",
    "DROP FUNCTION usersync.leave_cluster(uuid)",
    "DROP TABLE usersync.merged_customers, usersync.clusters",
    "DROP FUNCTION usersync.uuid_of(text)",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
