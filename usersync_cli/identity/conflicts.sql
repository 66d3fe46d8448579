-- Conflicts: what a job found that differs from the map, and what a person said to it.

-- name: listed
-- here: the domain, or uuid, of the customer that is on the map; there: what was found instead.
SELECT c.id, c.kind, c.app, c.app_id, COALESCE(c.domain, '') AS found_domain, c.uuid AS found_uuid, c.rule, c.value, c.job, c.step, c.run_id,
       c.found_at, c.status, c.answered_at, c.answered_by, c.reason, h.uuid, h.domain
  FROM usersync.identity_conflicts AS c
  LEFT JOIN usersync.mappings AS m ON m.app = c.app AND m.id = c.app_id
  LEFT JOIN LATERAL (
       SELECT usersync.root_of(COALESCE(m.customer,
                  CASE c.kind WHEN 'renamed' THEN c.uuid
                              WHEN 'uuid' THEN COALESCE((SELECT i.uuid FROM usersync.customers AS i WHERE i.domain = c.domain),
                                   (SELECT f.customer FROM usersync.former_domains AS f WHERE f.domain = c.domain LIMIT 1)) END)) AS uuid
  ) AS r ON true
  LEFT JOIN usersync.customers AS h ON h.uuid = r.uuid
 WHERE (%(ids)s::bigint[] IS NULL OR c.id = ANY(%(ids)s))
   AND (%(app)s::text IS NULL OR c.app = %(app)s) AND (%(kind)s::text IS NULL OR c.kind = %(kind)s)
   AND (%(statuses)s::text[] IS NULL OR c.status = ANY(%(statuses)s))
   AND (%(before)s::interval IS NULL OR c.found_at < now() - %(before)s::interval)
 ORDER BY c.id LIMIT %(most)s

-- name: counted
SELECT c.kind, count(*) FROM usersync.identity_conflicts AS c
 WHERE (%(app)s::text IS NULL OR c.app = %(app)s) AND (%(kind)s::text IS NULL OR c.kind = %(kind)s)
   AND (%(statuses)s::text[] IS NULL OR c.status = ANY(%(statuses)s))
   AND (%(before)s::interval IS NULL OR c.found_at < now() - %(before)s::interval)
 GROUP BY c.kind ORDER BY c.kind

-- name: answer
UPDATE usersync.identity_conflicts AS c SET status = %(status)s, answered_at = now(), answered_by = %(by)s, reason = %(reason)s
 WHERE c.id = %(id)s

-- name: look_again
-- The next run of each step that fills this app looks at all rows again.
UPDATE usersync.identities AS i SET fingerprint = NULL WHERE i.app = %(app)s AND i.fingerprint IS NOT NULL RETURNING i.job

-- name: add_customer
INSERT INTO usersync.customers (uuid, created_by) VALUES (%(uuid)s, %(by)s) ON CONFLICT (uuid) DO NOTHING

-- name: pin
UPDATE usersync.mappings AS m SET pinned = true, decided_by = %(by)s, reason = %(reason)s WHERE m.app = %(app)s AND m.id = %(id)s
