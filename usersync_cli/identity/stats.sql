-- Numbers about the map. The tables that fill it are read whole.

-- name: apps
SELECT a.name, (SELECT count(*) FROM usersync.mappings AS m WHERE m.app = a.name),
       (SELECT count(*) FROM usersync.mappings AS m WHERE m.app = a.name AND m.pinned),
       (SELECT count(*) FROM usersync.closed_mappings AS m WHERE m.app = a.name),
       (SELECT count(DISTINCT CASE WHEN c.merged_into IS NULL THEN c.uuid ELSE usersync.root_of(c.uuid) END)
          FROM (SELECT DISTINCT m.customer FROM usersync.mappings AS m WHERE m.app = a.name) AS m
          JOIN usersync.customers AS c ON c.uuid = m.customer)
  FROM usersync.apps AS a WHERE %(app)s::text IS NULL OR a.name = %(app)s ORDER BY a.name

-- name: customers
SELECT count(*) FILTER (WHERE c.merged_into IS NULL), count(*) FILTER (WHERE c.merged_into IS NOT NULL) FROM usersync.customers AS c

-- name: rules
SELECT m.app, m.rule, count(*) FROM usersync.mappings AS m WHERE %(app)s::text IS NULL OR m.app = %(app)s
 GROUP BY m.app, m.rule ORDER BY m.app, count(*) DESC, m.rule

-- name: closed
SELECT m.app, m.closed_because, count(*) FROM usersync.closed_mappings AS m WHERE %(app)s::text IS NULL OR m.app = %(app)s
 GROUP BY m.app, m.closed_because ORDER BY m.app, count(*) DESC, m.closed_because

-- name: sizes
-- How many customers have how many ids.
SELECT z.upto, count(*), sum(z.ids)
  FROM (SELECT s.ids, (ARRAY[1, 10, 100, 1000])[width_bucket(s.ids, ARRAY[2, 11, 101]::bigint[]) + 1] AS upto
          FROM (SELECT CASE WHEN c.merged_into IS NULL THEN c.uuid ELSE usersync.root_of(c.uuid) END AS uuid, sum(m.ids)::bigint AS ids
                  FROM (SELECT m.customer, count(*) AS ids FROM usersync.mappings AS m
                         WHERE %(app)s::text IS NULL OR m.app = %(app)s GROUP BY m.customer) AS m
                  JOIN usersync.customers AS c ON c.uuid = m.customer GROUP BY 1) AS s) AS z
 GROUP BY z.upto ORDER BY z.upto

-- name: largest
SELECT r.uuid, r.domain, s.ids
  FROM (SELECT CASE WHEN c.merged_into IS NULL THEN c.uuid ELSE usersync.root_of(c.uuid) END AS uuid, sum(m.ids)::bigint AS ids
          FROM (SELECT m.customer, count(*) AS ids FROM usersync.mappings AS m
                 WHERE %(app)s::text IS NULL OR m.app = %(app)s GROUP BY m.customer) AS m
          JOIN usersync.customers AS c ON c.uuid = m.customer GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5) AS s
  JOIN usersync.customers AS r ON r.uuid = s.uuid ORDER BY s.ids DESC, r.uuid

-- name: conflicts
SELECT c.app, c.kind, count(*), count(*) FILTER (WHERE c.found_at > now() - interval '1 day'),
       count(*) FILTER (WHERE c.found_at BETWEEN now() - interval '7 days' AND now() - interval '1 day'),
       count(*) FILTER (WHERE c.found_at BETWEEN now() - interval '30 days' AND now() - interval '7 days'),
       count(*) FILTER (WHERE c.found_at < now() - interval '30 days'), min(c.found_at)
  FROM usersync.identity_conflicts AS c WHERE c.status = 'open' AND (%(app)s::text IS NULL OR c.app = %(app)s)
 GROUP BY c.app, c.kind ORDER BY c.app NULLS LAST, c.kind

-- name: crowded
SELECT k.app, k.domain, k.ids, k.since FROM usersync.crowded_domains AS k WHERE %(app)s::text IS NULL OR k.app = %(app)s
 ORDER BY k.app, k.ids DESC, k.domain

-- name: tables
-- What fills an app, where the table and its column are still there; names are stored quoted.
SELECT i.app, i.relation, i.id_column, CASE WHEN EXISTS (
           SELECT FROM pg_attribute AS l WHERE l.attrelid = to_regclass(i.relation) AND NOT l.attisdropped
              AND '"' || replace(l.attname, '"', '""') || '"' = i.live) THEN i.live END,
       EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = to_regclass(i.relation) AND NOT a.attisdropped
                  AND '"' || replace(a.attname, '"', '""') || '"' = i.id_column)
  FROM (SELECT DISTINCT i.app, i.relation, i.id_column, i.live FROM usersync.identities AS i) AS i
 WHERE %(app)s::text IS NULL OR i.app = %(app)s ORDER BY i.app, i.relation, i.id_column

-- name: unmapped
SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT FROM usersync.mappings AS m WHERE m.app = {app} AND m.id = t.id))
  FROM ({ids}) AS t(id)
