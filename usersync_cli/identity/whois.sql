-- One question, one statement: whoever is asked for, and all that is known of that customer, as one JSON value.

-- name: by_uuid
SELECT c.uuid AS customer, NULL::text AS app, NULL::text AS id FROM usersync.customers AS c WHERE c.uuid = %(uuid)s

-- name: by_domain
-- The domain itself before the registrable one that it is below; what is called so before what was.
(SELECT o.customer, NULL::text AS app, NULL::text AS id
   FROM (SELECT c.uuid AS customer, c.domain, 1 AS turn FROM usersync.customers AS c WHERE c.domain = ANY(%(domains)s::text[] COLLATE "C")
         UNION ALL
         SELECT f.customer, f.domain, 2 FROM usersync.former_domains AS f WHERE f.domain = ANY(%(domains)s::text[] COLLATE "C")) AS o
  ORDER BY array_position(%(domains)s::text[], o.domain::text), o.turn LIMIT 1)

-- name: by_id
SELECT m.customer, a.name AS app, %(id)s::text COLLATE "C" AS id
  FROM usersync.apps AS a LEFT JOIN usersync.mappings AS m ON m.app = a.name AND m.id = %(id)s::text COLLATE "C"
 WHERE a.name = %(app)s OR starts_with(a.name, %(app)s || '.')

-- name: ask
WITH RECURSIVE asked AS MATERIALIZED ({start}),
roots AS MATERIALIZED (SELECT DISTINCT usersync.root_of(a.customer) AS uuid FROM asked AS a WHERE a.customer IS NOT NULL),
family(root, uuid, depth) AS (
    SELECT r.uuid, r.uuid, 0 FROM roots AS r
    UNION ALL
    SELECT f.root, c.uuid, f.depth + 1 FROM family AS f JOIN usersync.customers AS c ON c.merged_into = f.uuid
),
held AS MATERIALIZED (
    SELECT f.root, m.*, EXISTS (SELECT FROM asked AS a WHERE a.app = m.app AND a.id = m.id) AS asked
      FROM family AS f JOIN usersync.mappings AS m ON m.customer = f.uuid ORDER BY asked DESC, m.app, m.id LIMIT %(most)s
),
closed AS MATERIALIZED (
    SELECT k.* FROM (
        SELECT f.root, m.* FROM family AS f JOIN usersync.closed_mappings AS m ON m.customer = f.uuid
        UNION
        SELECT usersync.root_of(m.customer), m.* FROM asked AS a JOIN usersync.closed_mappings AS m ON m.app = a.app AND m.id = a.id
    ) AS k ORDER BY k.closed_at DESC, k.app, k.id LIMIT %(most)s
),
seen AS MATERIALIZED (
    SELECT s.job, s.step, l.finished_at
      FROM (SELECT DISTINCT h.job, h.step FROM held AS h WHERE h.job IS NOT NULL) AS s
     CROSS JOIN LATERAL (SELECT t.finished_at FROM usersync.runs AS r JOIN usersync.run_steps AS t ON t.run_id = r.id AND t.step = s.step
                          WHERE r.job = s.job AND t.status IN ('ok', 'partial') ORDER BY r.id DESC LIMIT 1) AS l
),
named(domain) AS (
    SELECT c.domain FROM family AS f JOIN usersync.customers AS c ON c.uuid = f.uuid WHERE c.domain IS NOT NULL
    UNION
    SELECT n.domain FROM family AS f JOIN usersync.former_domains AS n ON n.customer = f.uuid
),
found AS MATERIALIZED (
    SELECT c.id FROM (SELECT h.app, h.id FROM held AS h UNION SELECT a.app, a.id FROM asked AS a WHERE a.app IS NOT NULL) AS i
      JOIN usersync.identity_conflicts AS c ON c.app = i.app AND c.app_id = i.id WHERE c.status <> 'over'
    UNION
    SELECT c.id FROM named AS n JOIN usersync.identity_conflicts AS c ON c.domain = n.domain AND c.status = 'open'
    UNION
    SELECT c.id FROM family AS f JOIN usersync.identity_conflicts AS c ON c.uuid = f.uuid AND c.status = 'open'
    LIMIT %(most)s
)
SELECT json_build_object(
    'asked', (SELECT json_agg(json_build_object('app', a.app, 'id', a.id, 'customer', a.customer) ORDER BY a.app) FROM asked AS a),
    'customers', (SELECT json_agg(json_build_object('uuid', c.uuid, 'domain', c.domain, 'created_at', c.created_at, 'created_by', c.created_by,
                                                    'run', c.run_id) ORDER BY c.domain, c.uuid)
                    FROM roots AS r JOIN usersync.customers AS c ON c.uuid = r.uuid),
    'merged', (SELECT json_agg(json_build_object('root', f.root, 'uuid', c.uuid, 'domain', COALESCE(c.domain, g.domain), 'merged_into',
                               c.merged_into, 'merged_at', g.merged_at, 'merged_by', g.merged_by, 'reason', g.reason) ORDER BY f.depth, c.uuid)
                 FROM family AS f JOIN usersync.customers AS c ON c.uuid = f.uuid
                 LEFT JOIN usersync.merges AS g ON g.customer = c.uuid AND g.undone_at IS NULL WHERE f.depth > 0),
    'former_domains', (SELECT json_agg(json_build_object('root', f.root, 'customer', n.customer, 'domain', n.domain, 'until', n.until,
                                                         'renamed_by', n.renamed_by, 'reason', n.reason) ORDER BY n.until, n.domain)
                         FROM family AS f JOIN usersync.former_domains AS n ON n.customer = f.uuid),
    'mappings', (SELECT json_agg(json_build_object(
                            'root', h.root, 'customer', h.customer, 'customer_domain', c.domain, 'app', h.app, 'app_id', h.id, 'rule', h.rule,
                            'evidence', h.value, 'evidence_domain', h.domain, 'job', h.job, 'step', h.step, 'run', h.run_id,
                            'person', h.decided_by, 'reason', h.reason, 'pinned', h.pinned, 'first_seen', h.opened_at,
                            'last_seen', COALESCE(h.left_at, CASE WHEN h.job IS NOT NULL THEN GREATEST(h.opened_at, s.finished_at) END), 'left_at', h.left_at, 'asked', h.asked)
                        ORDER BY h.asked DESC, h.app, h.id)
                   FROM held AS h LEFT JOIN usersync.customers AS c ON c.uuid = h.customer
                   LEFT JOIN seen AS s ON s.job = h.job AND s.step = h.step),
    'closed', (SELECT json_agg(json_build_object(
                          'root', k.root, 'customer', k.customer, 'customer_domain', c.domain, 'app', k.app, 'app_id', k.id, 'rule', k.rule,
                          'evidence', k.value, 'evidence_domain', k.domain, 'job', k.job, 'step', k.step, 'run', k.run_id,
                          'person', k.decided_by, 'reason', k.reason, 'pinned', k.pinned, 'first_seen', k.opened_at, 'last_seen', k.closed_at,
                          'closed_because', k.closed_because, 'closed_by', k.closed_by, 'closed_reason', k.closed_reason,
                          'closed_run', k.closed_run_id) ORDER BY k.closed_at DESC, k.app, k.id)
                 FROM closed AS k LEFT JOIN usersync.customers AS c ON c.uuid = k.customer),
    'conflicts', (SELECT json_agg(json_build_object(
                             'id', c.id, 'kind', c.kind, 'app', c.app, 'app_id', c.app_id, 'domain', c.domain, 'uuid', c.uuid, 'rule', c.rule,
                             'evidence', c.value, 'job', c.job, 'step', c.step, 'run', c.run_id, 'found_at', c.found_at, 'status', c.status,
                             'answered_at', c.answered_at, 'answered_by', c.answered_by, 'reason', c.reason) ORDER BY c.id)
                    FROM found AS f JOIN usersync.identity_conflicts AS c ON c.id = f.id)
)
