-- From facts to mappings: what is decided, in a temp table, and how that is written. {...} is filled in by resolve.py.

-- name: hosts
-- Each host once, with its domain, the customer who has that or has had it, and the uuid that a new one would have.
CREATE TEMP TABLE {hosts} (host text COLLATE "C", domain text COLLATE "C" NOT NULL, customer uuid, made uuid NOT NULL) ON COMMIT DROP

-- name: judged
-- Domains that are crowded in this app identify nobody; those of somebody's own list are as they are.
INSERT INTO {hosts} (host, domain, customer, made)
SELECT j.host, j.domain, c.customer, j.made
  FROM unnest(%(hosts)s::text[], %(domains)s::text[], %(made)s::uuid[]) AS j(host, domain, made)
  LEFT JOIN LATERAL (
       SELECT c.uuid AS customer FROM {customers} AS c WHERE c.domain = j.domain COLLATE "C"
       UNION ALL
       (SELECT f.customer FROM {former_domains} AS f WHERE f.domain = j.domain COLLATE "C" LIMIT 1)
        LIMIT 1
  ) AS c ON true
 WHERE starts_with(j.host, '=')
    OR NOT EXISTS (SELECT FROM {crowded_domains} AS k WHERE k.app = %(app)s AND k.domain = j.domain COLLATE "C")

-- name: decide
-- action: 0 nothing, 1 a new mapping, 2 a conflict. turn: the place among the rows of one id, 1 is the one that counts.
CREATE TEMP TABLE {decided} ON COMMIT DROP AS
SELECT y.*,
       CASE WHEN y.customer IS NULL OR y.customer = y.mapped THEN 0
            WHEN y.mapped IS NULL THEN 1
            WHEN y.is_new THEN 2
            WHEN {root_of_mapped} = {root_of_customer} THEN 0
            ELSE 2 END AS action
  FROM (SELECT x.id, x.rank, x.value, x.domain, x.uuid, x.turn, x.customer, x.is_new, x.theirs, x.pinned, x.returned,
               {mapped} AS mapped
          FROM (SELECT d.*, m.customer AS mapped, m.pinned, m.left_at IS NOT NULL AS returned, {customer} AS customer,
                       d.known IS NULL {is_new} AS is_new, {theirs} AS theirs
                  FROM ({facts}) AS d
                  {held}
                  {by_uuid}) AS x) AS y

-- name: held
-- For `decide`, with all rows of a table: the mapping that each id has.
LEFT JOIN {mappings} AS m ON m.app = %(app)s AND m.id = d.id AND NOT EXISTS (SELECT FROM {undone} AS u WHERE u.id = m.id)

-- name: held_by_few
-- The same for a page. LATERAL with LIMIT: each id is looked up in the index, whatever the planner knows of a table that grows.
LEFT JOIN LATERAL (
     SELECT m.* FROM {mappings} AS m WHERE m.app = %(app)s AND m.id = d.id AND NOT EXISTS (SELECT FROM {undone} AS u WHERE u.id = d.id) LIMIT 1
) AS m ON true

-- name: crowds
-- Domains that would have more ids than one app may have of one customer, and the ids that have them already. OFFSET 0: they are
-- looked up by customer, although an app may seem rarer to the planner.
SELECT g.domain, g.customer, g.new + g.there FROM (
    SELECT d.domain, d.customer, count(*) AS new,
           CASE WHEN bool_or(d.is_new) THEN 0
                ELSE (SELECT count(*) FROM (SELECT * FROM {mappings} AS m WHERE m.customer = d.customer OFFSET 0) AS m
                       WHERE m.app = %(app)s AND m.domain = d.domain {but}) END AS there
      FROM {decided} AS d WHERE d.action = 1 AND d.turn = 1 AND d.uuid IS NULL GROUP BY d.domain, d.customer
) AS g WHERE g.new + g.there > %(most)s ORDER BY g.domain

-- name: overfull
-- Domains that have more ids than that already: max_ids was lowered.
SELECT m.domain, m.customer, count(*) FROM {mappings} AS m
 WHERE m.app = %(app)s AND m.domain IS NOT NULL AND NOT m.pinned AND m.rule = ANY(%(rules)s)
   AND NOT EXISTS (SELECT FROM {undone} AS u WHERE u.id = m.id)
 GROUP BY m.domain, m.customer HAVING count(*) > %(most)s ORDER BY m.domain, m.customer

-- name: crowd
-- The ids that a crowded domain had.
INSERT INTO {undone} (id, because)
SELECT m.id, 'crowded' FROM unnest(%(domains)s::text[], %(customers)s::uuid[]) AS k(domain, customer)
  JOIN {mappings} AS m ON m.customer = k.customer AND m.app = %(app)s AND m.domain = k.domain COLLATE "C"
 WHERE NOT m.pinned AND m.rule IS NOT NULL AND NOT EXISTS (SELECT FROM {undone} AS u WHERE u.id = m.id)

-- name: unlisted
-- The ids whose domain identifies nobody by now: the lists have changed.
INSERT INTO {undone} (id, because)
SELECT m.id, 'listed' FROM {mappings} AS m JOIN unnest(%(domains)s::text[]) AS k(domain) ON m.domain = k.domain COLLATE "C"
 WHERE m.app = %(app)s AND NOT m.pinned AND m.rule = ANY(%(rules)s) AND NOT EXISTS (SELECT FROM {undone} AS u WHERE u.id = m.id)

-- name: left
-- Of those whose record has left, the ones that this step has mapped, and that are not pinned. An id may have another row by now.
DELETE FROM {undone} AS u WHERE starts_with(u.because, 'left')
   AND (u.because = 'left' AND EXISTS (SELECT FROM {facts_table} AS f WHERE f.id = u.id)
        OR NOT EXISTS (SELECT FROM {mappings} AS m WHERE m.app = %(app)s AND m.id = u.id AND NOT m.pinned
                                                     AND m.job = %(job)s AND m.step = %(step)s))

-- name: pins_left
UPDATE {mappings} AS m SET left_at = now() FROM {undone} AS u
 WHERE u.because = 'left' AND m.app = %(app)s AND m.id = u.id AND m.pinned AND m.left_at IS NULL
   AND NOT EXISTS (SELECT FROM {facts_table} AS f WHERE f.id = u.id)

-- name: add_crowds
INSERT INTO usersync.crowded_domains (app, domain, ids, run_id)
SELECT %(app)s, k.domain, k.ids, %(run)s FROM unnest(%(domains)s::text[], %(ids)s::bigint[]) AS k(domain, ids) ON CONFLICT DO NOTHING

-- name: owed_by_others
-- Where others fill the app too, their next run looks at all rows: who was of a crowded domain is decided by the next rule.
UPDATE usersync.identities SET fingerprint = NULL
 WHERE app = %(app)s AND (job, step, stream) <> (%(job)s, %(step)s, %(stream)s) AND fingerprint IS NOT NULL

-- name: close
WITH gone AS (
    DELETE FROM usersync.mappings AS m USING (SELECT u.id, min(u.because) AS because FROM {undone} AS u GROUP BY u.id) AS u
     WHERE m.app = %(app)s AND m.id = u.id RETURNING m.*, u.because
)
INSERT INTO usersync.closed_mappings (app, id, customer, rule, value, domain, pinned, job, step, run_id, decided_by, reason, opened_at,
                                      left_at, closed_because, closed_run_id)
SELECT g.app, g.id, g.customer, g.rule, g.value, g.domain, g.pinned, g.job, g.step, g.run_id, g.decided_by, g.reason, g.opened_at,
       g.left_at, g.because, %(run)s FROM gone AS g

-- name: add_customers
INSERT INTO usersync.customers (uuid, domain, created_by, run_id)
SELECT DISTINCT ON (d.customer) d.customer, d.domain, %(by)s, %(run)s
  FROM {decided} AS d WHERE d.action = 1 AND d.is_new AND d.turn = 1 ORDER BY d.customer, d.domain
ON CONFLICT (uuid) DO NOTHING

-- name: add_mappings
INSERT INTO usersync.mappings (app, id, customer, rule, value, domain, job, step, run_id)
SELECT %(app)s, d.id, d.customer, (%(rules)s::text[])[d.rank], d.value, d.domain, %(job)s, %(step)s, %(run)s
  FROM {decided} AS d WHERE d.action = 1 AND d.turn = 1 ORDER BY d.id

-- name: add_conflicts
-- One that was over is open again; one that was answered stays so.
INSERT INTO usersync.identity_conflicts AS c (kind, app, app_id, domain, uuid, rule, value, job, step, stream, run_id)
SELECT DISTINCT ON (f.kind, f.app, f.id, f.domain, f.uuid) f.kind, f.app, f.id, f.domain, f.uuid, (%(rules)s::text[])[f.rank], f.value,
       %(job)s, %(step)s, %(stream)s, %(run)s
  FROM ({conflicts}) AS f ORDER BY f.kind, f.app, f.id, f.domain, f.uuid, f.rank, f.value COLLATE "C"
ON CONFLICT (app, app_id, kind, domain, uuid) DO UPDATE
   SET status = 'open', found_at = now(), answered_at = NULL, rule = excluded.rule, value = excluded.value, job = excluded.job,
       step = excluded.step, stream = excluded.stream, run_id = excluded.run_id
 WHERE c.status = 'over' OR c.kind = 'returned' AND c.status <> 'open'

-- name: conflicts
-- What a person has to decide, of what is decided here.
SELECT 'domain' AS kind, %(app)s::text COLLATE "C" AS app, d.id, d.domain, CASE WHEN d.domain IS NULL THEN d.uuid END AS uuid, d.rank, d.value
  FROM {decided} AS d WHERE d.action = 2
UNION ALL
SELECT 'returned', %(app)s, d.id, NULL, NULL, d.rank, d.value FROM {decided} AS d WHERE d.returned AND d.turn = 1
UNION ALL
SELECT d.theirs, NULL, NULL, d.domain, d.uuid, d.rank, d.value FROM {decided} AS d WHERE d.theirs IS NOT NULL

-- name: back
UPDATE usersync.mappings AS m SET left_at = NULL FROM {decided} AS d WHERE d.returned AND m.app = %(app)s AND m.id = d.id

-- name: settle
-- What the source has taken back, and what a record said that has left. What another step found is not this one's to take back.
UPDATE usersync.identity_conflicts AS c SET status = 'over', answered_at = now()
 WHERE c.app = %(app)s AND c.status = 'open' AND c.kind = 'domain' AND (c.job, c.step, c.stream) = (%(job)s, %(step)s, %(stream)s)
   AND (EXISTS (SELECT FROM {decided} AS d WHERE d.id = c.app_id)
        OR EXISTS (SELECT FROM {undone} AS u WHERE u.id = c.app_id AND u.because = 'left'))
   AND NOT EXISTS (SELECT FROM {decided} AS d WHERE d.id = c.app_id AND d.action = 2 AND d.domain IS NOT DISTINCT FROM c.domain)

-- name: outcome
-- Of conflicts the new ones: a page that was decided may be decided again at the end, with all rows.
SELECT count(*) FILTER (WHERE d.action = 1 AND d.turn = 1),
       count(*) FILTER (WHERE d.action = 2 AND NOT EXISTS (
             SELECT FROM {identity_conflicts} AS f WHERE f.kind = 'domain' AND f.app = %(app)s AND f.app_id = d.id
                                                     AND f.domain IS NOT DISTINCT FROM d.domain AND f.status <> 'over')),
       count(*) FILTER (WHERE d.returned),
       count(*) FILTER (WHERE d.theirs IS NOT NULL AND NOT EXISTS (
             SELECT FROM {identity_conflicts} AS f WHERE f.kind = d.theirs AND f.domain IS NOT DISTINCT FROM d.domain AND f.uuid = d.uuid
                                                     AND f.status <> 'over'))
  FROM {decided} AS d

-- name: foreseen
-- For a preview, what a run would do, id by id: kind, id, what there is, what there would be, why.
SELECT 'unmap', u.id, COALESCE(c.domain, m.customer::text), NULL, min(u.because)
  FROM {undone} AS u JOIN {mappings} AS m ON m.app = %(app)s AND m.id = u.id LEFT JOIN {customers} AS c ON c.uuid = m.customer
 GROUP BY u.id, c.domain, m.customer
UNION ALL
SELECT 'map', d.id, NULL, COALESCE(c.domain, d.domain, d.customer::text),
       (%(rules)s::text[])[d.rank] || ' ' || COALESCE(d.value, '') || CASE WHEN d.is_new THEN ', a new customer' ELSE '' END
  FROM {decided} AS d LEFT JOIN {customers} AS c ON c.uuid = d.customer WHERE d.action = 1 AND d.turn = 1
UNION ALL
SELECT 'conflict', d.id, COALESCE(c.domain, d.mapped::text), COALESCE(d.domain, d.uuid::text), (%(rules)s::text[])[d.rank] || ' ' || COALESCE(d.value, '')
  FROM {decided} AS d LEFT JOIN {customers} AS c ON c.uuid = d.mapped WHERE d.action = 2 AND NOT EXISTS (
       SELECT FROM {identity_conflicts} AS f WHERE f.kind = 'domain' AND f.app = %(app)s AND f.app_id = d.id
                                               AND f.domain IS NOT DISTINCT FROM d.domain AND f.status <> 'over')
UNION ALL
SELECT 'conflict', d.id, COALESCE(c.domain, d.mapped::text), NULL, 'its record had left and is back'
  FROM {decided} AS d LEFT JOIN {customers} AS c ON c.uuid = d.mapped WHERE d.returned AND d.turn = 1
UNION ALL
SELECT 'conflict', d.id, COALESCE(c.domain, d.customer::text), COALESCE(d.domain, '') || ' ' || d.uuid::text,
       CASE d.theirs WHEN 'uuid' THEN 'another uuid of this domain' ELSE 'another domain of this uuid' END
  FROM {decided} AS d LEFT JOIN {customers} AS c ON c.uuid = d.customer WHERE d.theirs IS NOT NULL AND NOT EXISTS (
       SELECT FROM {identity_conflicts} AS f WHERE f.kind = d.theirs AND f.domain IS NOT DISTINCT FROM d.domain AND f.uuid = d.uuid
                                               AND f.status <> 'over')
 ORDER BY 2, 1, 4
