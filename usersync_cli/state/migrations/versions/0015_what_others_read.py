"""What other programs may read of who is whom: views and a function, and which role sees which app's rows.

Revision: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"

# The view of the map as of a moment, in two parts.
_MOMENT = """
    CREATE VIEW usersync.customer_ids_then WITH (security_barrier) AS
    WITH RECURSIVE mapped AS NOT MATERIALIZED (
        SELECT m.app, m.id, m.customer FROM usersync.mappings AS m
         WHERE (m.app IN (SELECT o.app FROM usersync.own_apps AS o)) IS TRUE
           AND m.app = ANY (ARRAY(SELECT o.app FROM usersync.own_apps AS o))
           AND m.opened_at <= usersync.asked_moment()
        UNION ALL
        SELECT m.app, m.id, m.customer FROM usersync.closed_mappings AS m
         WHERE (m.app IN (SELECT o.app FROM usersync.own_apps AS o)) IS TRUE
           AND m.app = ANY (ARRAY(SELECT o.app FROM usersync.own_apps AS o))
           AND m.opened_at <= usersync.asked_moment() AND m.closed_at > usersync.asked_moment()
           AND NOT EXISTS (SELECT FROM usersync.mappings AS n
                            WHERE n.app = m.app AND n.id = m.id AND n.opened_at <= usersync.asked_moment())
           AND NOT EXISTS (SELECT FROM usersync.closed_mappings AS n
                            WHERE n.app = m.app AND n.id = m.id AND n.opened_at > m.opened_at
                              AND n.opened_at <= usersync.asked_moment() AND n.closed_at > usersync.asked_moment())
    ), merged AS NOT MATERIALIZED (
        SELECT c.uuid, c.merged_into FROM usersync.customers AS c
         WHERE c.merged_into IS NOT NULL
           AND NOT EXISTS (SELECT FROM usersync.customer_history AS h WHERE h.customer = c.uuid AND h.until > usersync.asked_moment())
        UNION ALL
        SELECT h.customer, h.merged_into FROM usersync.customer_history AS h
         WHERE h.merged_into IS NOT NULL AND h.until > usersync.asked_moment()
           AND NOT EXISTS (SELECT FROM usersync.customer_history AS e
                            WHERE e.customer = h.customer AND e.until > usersync.asked_moment() AND (e.until, e.id) < (h.until, h.id))
    ), down(root, uuid) AS (
        SELECT e.merged_into, e.uuid FROM merged AS e WHERE NOT EXISTS (SELECT FROM merged AS p WHERE p.uuid = e.merged_into)
        UNION ALL
        SELECT d.root, e.uuid
          FROM down AS d CROSS JOIN LATERAL (SELECT n.uuid FROM merged AS n WHERE n.merged_into = d.uuid OFFSET 0) AS e
    """
_OF_MOMENT = """
    ), found AS NOT MATERIALIZED (
        SELECT m.app, m.id, m.customer AS uuid FROM mapped AS m
         WHERE (SELECT CASE WHEN h.id IS NULL THEN c.merged_into ELSE h.merged_into END
                  FROM usersync.customers AS c
                  LEFT JOIN LATERAL (SELECT h.id, h.merged_into FROM usersync.customer_history AS h
                                      WHERE h.customer = c.uuid AND h.until > usersync.asked_moment()
                                      ORDER BY h.until, h.id LIMIT 1) AS h ON true
                 WHERE c.uuid = m.customer) IS NULL
        UNION ALL
        SELECT m.app, m.id, CASE WHEN m.customer = d.uuid THEN d.root END FROM down AS d JOIN mapped AS m ON m.customer = d.uuid
    )
    SELECT f.app, f.id, f.uuid,
           (SELECT CASE WHEN h.customer IS NULL THEN c.domain ELSE h.domain END
              FROM usersync.customers AS c
              LEFT JOIN LATERAL (SELECT h.customer, h.domain FROM usersync.customer_history AS h
                                  WHERE h.customer = c.uuid AND h.until > usersync.asked_moment()
                                  ORDER BY h.until, h.id LIMIT 1) AS h ON true
             WHERE c.uuid = f.uuid) AS domain
      FROM found AS f
    """

# What other programs read. A view reads with its owner's rights, and `current_user` in it is whoever asks: so a role that was
# granted an app needs no right on any table, and sees its own app's rows alone. Who may write mappings sees all of them.
# Neither a plan, nor what EXPLAIN ANALYZE says of it, nor the time that it takes may say which ids, domains and uuids other apps have,
# whatever settings of the planner a role chooses. So: the apps are an array, with which an index of mappings is entered. They are a
# hashed subplan too, which is as cheap as a comparison and stands before all those of a query, where no index is used (an IN alone
# would become a join). What is known of a customer is looked up in a subquery, from a mapping that may be seen. And CASE, always
# true, has a condition on a root wait until that mapping was found.
VIEWS = (
    """
    CREATE VIEW usersync.own_apps WITH (security_barrier) AS
    SELECT a.name AS app FROM usersync.apps AS a
     WHERE (SELECT pg_catalog.has_table_privilege(current_user, 'usersync.mappings'::regclass, 'INSERT'))
        OR EXISTS (SELECT FROM usersync.app_roles AS r JOIN pg_catalog.pg_roles AS p ON p.rolname = r.role
                    WHERE r.app = a.name AND pg_catalog.pg_has_role(current_user, p.oid, 'USAGE'))
    """,
    # The SELECT around the two is the barrier: PostgreSQL has none where a view is nothing but a UNION ALL, and a function that somebody
    # writes for it, if it costs little, sees each row before the apps are asked.
    """
    CREATE VIEW usersync.customer_ids WITH (security_barrier) AS
    SELECT u.app, u.id, u.uuid, u.domain FROM (
        SELECT m.app, m.id, m.customer AS uuid, (SELECT c.domain FROM usersync.customers AS c WHERE c.uuid = m.customer) AS domain
          FROM usersync.mappings AS m
         WHERE (m.app IN (SELECT o.app FROM usersync.own_apps AS o)) IS TRUE
           AND m.app = ANY (ARRAY(SELECT o.app FROM usersync.own_apps AS o))
           AND (SELECT k.cluster FROM usersync.merged_customers AS k WHERE k.customer = m.customer) IS NULL
        UNION ALL
        SELECT m.app, m.id,
               CASE WHEN m.customer = k.customer THEN (SELECT g.root FROM usersync.clusters AS g WHERE g.cluster = k.cluster) END,
               CASE WHEN m.customer = k.customer
                    THEN (SELECT c.domain FROM usersync.clusters AS g JOIN usersync.customers AS c ON c.uuid = g.root
                           WHERE g.cluster = k.cluster) END
          FROM usersync.merged_customers AS k JOIN usersync.mappings AS m ON m.customer = k.customer
         WHERE (m.app IN (SELECT o.app FROM usersync.own_apps AS o)) IS TRUE
           AND m.app = ANY (ARRAY(SELECT o.app FROM usersync.own_apps AS o))
    ) AS u
    """,
    # The same at the moment of the setting usersync.at. It is a setting because only a view reads with its owner's rights while
    # current_user stays whoever asks; a function does the one or the other.
    """
    CREATE FUNCTION usersync.asked_moment() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    RETURN COALESCE(NULLIF(pg_catalog.current_setting('usersync.at', true), '')::timestamptz, 'infinity'::timestamptz)
    """,
    # An id has two mappings at a moment only where the clocks of two transactions overlap: the later one holds. There is one view, not
    # one on another: each part of it would be a way to read everything for whoever was granted SELECT on all tables.
    _MOMENT + _OF_MOMENT,
    # Of all ids, of one, or of a customer's: what is asked for by argument is looked up, other conditions filter what is found.
    """
    CREATE FUNCTION usersync.customer_ids_at(
        moment timestamptz, of_app text DEFAULT NULL, of_id text DEFAULT NULL, of_uuid uuid DEFAULT NULL)
    RETURNS TABLE (app text, id text, uuid uuid, domain text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
    DECLARE
        before text := COALESCE(current_setting('usersync.at', true), '');
    BEGIN
        PERFORM set_config('usersync.at', moment::text, true);
        RETURN QUERY SELECT v.app, v.id, v.uuid, v.domain FROM usersync.customer_ids_then AS v
                      WHERE moment IS NOT NULL AND (of_app IS NULL OR v.app = of_app) AND (of_id IS NULL OR v.id = of_id)
                        AND (of_uuid IS NULL OR v.uuid = of_uuid);
        PERFORM set_config('usersync.at', before, true);
    END
    $$
    """,
)
_WRITER = "(SELECT pg_catalog.has_table_privilege(current_user, 'usersync.mappings'::regclass, 'INSERT'))"
# For a role that was granted more than it should have, such as SELECT on all tables: still its own app's rows alone.
_PRIVATE = ("apps", "identities", "customers", "former_domains", "merges", "customer_history", "clusters", "merged_customers",
            "identity_conflicts", "crowded_domains", "app_roles")  # fmt: skip
POLICIES = (
    *(f"ALTER TABLE usersync.{table} ENABLE ROW LEVEL SECURITY" for table in ("mappings", "closed_mappings", *_PRIVATE)),
    "CREATE POLICY own_app ON usersync.mappings USING (app = ANY (ARRAY(SELECT o.app FROM usersync.own_apps AS o)))",
    "CREATE POLICY own_app ON usersync.closed_mappings USING (app = ANY (ARRAY(SELECT o.app FROM usersync.own_apps AS o)))",
    *(f"CREATE POLICY writers ON usersync.{table} USING ({_WRITER})" for table in _PRIVATE),
)
UP = (*VIEWS, *POLICIES)
DOWN = (
    "DROP FUNCTION usersync.customer_ids_at(timestamptz, text, text, uuid)",
    "DROP VIEW usersync.customer_ids_then",
    "DROP FUNCTION usersync.asked_moment()",
    "DROP VIEW usersync.customer_ids",
    *(f"DROP POLICY own_app ON usersync.{table}" for table in ("mappings", "closed_mappings")),
    "DROP VIEW usersync.own_apps",
    *(f"ALTER TABLE usersync.{table} DISABLE ROW LEVEL SECURITY" for table in ("mappings", "closed_mappings", *_PRIVATE)),
    *(f"DROP POLICY writers ON usersync.{table}" for table in _PRIVATE),
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
