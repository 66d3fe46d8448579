-- Mappings that a person makes, moves or closes. `given` holds what they said; everything is set-wise, for one id or a million.

-- name: open
CREATE TEMP TABLE usersync_given (
    app text COLLATE "C" NOT NULL, id text COLLATE "C" NOT NULL, customer uuid NOT NULL, PRIMARY KEY (app, id)
) ON COMMIT DROP

-- name: look
-- what: created, pinned (it was so by a rule), moved, there (nothing is to be done).
CREATE TEMP TABLE usersync_looked ON COMMIT DROP AS
SELECT x.app, x.id, x.customer, x.mapped,
       CASE WHEN x.mapped IS NULL THEN 'created' WHEN x.root_of_mapped <> x.root THEN 'moved' WHEN x.pinned THEN 'there' ELSE 'pinned' END AS what
  FROM (SELECT g.app, g.id, g.customer, m.customer AS mapped, m.pinned,
               CASE WHEN o.merged_into IS NULL THEN m.customer ELSE usersync.root_of(m.customer) END AS root_of_mapped,
               CASE WHEN n.merged_into IS NULL THEN g.customer ELSE usersync.root_of(g.customer) END AS root
          FROM pg_temp.usersync_given AS g
          LEFT JOIN usersync.mappings AS m ON m.app = g.app AND m.id = g.id
          LEFT JOIN usersync.customers AS o ON o.uuid = m.customer
          LEFT JOIN usersync.customers AS n ON n.uuid = g.customer) AS x

-- name: counts
SELECT l.what, count(*) FROM pg_temp.usersync_looked AS l GROUP BY l.what

-- name: outvote
-- What the record of a moved id says is what the person has decided against: it does not come back as a conflict.
INSERT INTO usersync.identity_conflicts AS c (kind, app, app_id, domain, uuid, rule, value, job, step, run_id, status, answered_at,
                                              answered_by, reason)
SELECT 'domain', m.app, m.id, m.domain, CASE WHEN m.domain IS NULL THEN m.customer END, m.rule, m.value, m.job, m.step, m.run_id,
       'rejected', now(), %(by)s, %(reason)s
  FROM pg_temp.usersync_looked AS l JOIN usersync.mappings AS m ON m.app = l.app AND m.id = l.id
 WHERE l.what = 'moved' AND m.rule IS NOT NULL
ON CONFLICT (app, app_id, kind, domain, uuid) DO UPDATE
   SET status = 'rejected', answered_at = now(), answered_by = excluded.answered_by, reason = excluded.reason

-- name: answer
-- Open conflicts of the ids that are decided now, also by whoever says what a rule has said before.
UPDATE usersync.identity_conflicts AS c
   SET status = CASE WHEN c.kind = 'returned' OR usersync.root_of(COALESCE(
                          (SELECT i.uuid FROM usersync.customers AS i WHERE i.domain = c.domain),
                          (SELECT f.customer FROM usersync.former_domains AS f WHERE f.domain = c.domain LIMIT 1), c.uuid))
                          = usersync.root_of(l.customer) THEN 'accepted' ELSE 'rejected' END,
       answered_at = now(), answered_by = %(by)s, reason = %(reason)s
  FROM pg_temp.usersync_looked AS l
 WHERE c.app = l.app AND c.app_id = l.id AND c.status = 'open' AND l.what IN ('moved', 'pinned') AND c.kind IN ('domain', 'returned')

-- name: close_moved
WITH gone AS (
    DELETE FROM usersync.mappings AS m USING pg_temp.usersync_looked AS l
     WHERE l.what = 'moved' AND m.app = l.app AND m.id = l.id RETURNING m.*
)
INSERT INTO usersync.closed_mappings (app, id, customer, rule, value, domain, pinned, job, step, run_id, decided_by, reason, opened_at,
                                      left_at, closed_because, closed_by, closed_reason)
SELECT g.app, g.id, g.customer, g.rule, g.value, g.domain, g.pinned, g.job, g.step, g.run_id, g.decided_by, g.reason, g.opened_at,
       g.left_at, 'moved', %(by)s, %(reason)s FROM gone AS g

-- name: pin
UPDATE usersync.mappings AS m SET pinned = true, decided_by = %(by)s, reason = %(reason)s
  FROM pg_temp.usersync_looked AS l WHERE l.what = 'pinned' AND m.app = l.app AND m.id = l.id

-- name: add
INSERT INTO usersync.mappings (app, id, customer, pinned, decided_by, reason)
SELECT l.app, l.id, l.customer, true, %(by)s, %(reason)s FROM pg_temp.usersync_looked AS l WHERE l.what IN ('created', 'moved')
 ORDER BY l.app, l.id

-- name: close
WITH gone AS (DELETE FROM usersync.mappings AS m WHERE m.app = %(app)s AND m.id = %(id)s RETURNING m.*)
INSERT INTO usersync.closed_mappings (app, id, customer, rule, value, domain, pinned, job, step, run_id, decided_by, reason, opened_at,
                                      left_at, closed_because, closed_by, closed_reason)
SELECT g.app, g.id, g.customer, g.rule, g.value, g.domain, g.pinned, g.job, g.step, g.run_id, g.decided_by, g.reason, g.opened_at,
       g.left_at, %(because)s, %(by)s, %(reason)s FROM gone AS g

-- name: set_over
-- There is nothing any more that they disagree with; should the id be mapped again, they are found again.
UPDATE usersync.identity_conflicts AS c SET status = 'over', answered_at = now()
 WHERE c.app = %(app)s AND c.app_id = %(id)s AND c.status = 'open'

-- name: held
SELECT m.app, m.id, r.uuid, r.domain, m.rule, m.value, m.domain AS evidence, m.pinned, m.job, m.step, m.run_id, m.decided_by, m.reason,
       m.opened_at, m.left_at
  FROM usersync.mappings AS m JOIN usersync.customers AS r ON r.uuid = usersync.root_of(m.customer)
 WHERE m.app = %(app)s AND m.id = %(id)s

-- name: last_closed
SELECT m.app, m.id, r.uuid, r.domain, m.closed_because, m.closed_by, m.closed_at
  FROM usersync.closed_mappings AS m JOIN usersync.customers AS r ON r.uuid = usersync.root_of(m.customer)
 WHERE m.app = %(app)s AND m.id = %(id)s ORDER BY m.closed_at DESC LIMIT 1

-- name: of_customer
-- Also those of the customers that were merged into it.
WITH RECURSIVE family(uuid) AS (
    SELECT %(root)s::uuid
    UNION ALL
    SELECT c.uuid FROM family JOIN usersync.customers AS c ON c.merged_into = family.uuid
)
SELECT m.app, r.domain, m.id, r.uuid, m.pinned, m.rule, m.decided_by, m.job
  FROM family JOIN usersync.mappings AS m ON m.customer = family.uuid AND (%(app)s::text IS NULL OR m.app = %(app)s)
  JOIN usersync.customers AS r ON r.uuid = %(root)s ORDER BY m.app, m.id LIMIT %(most)s

-- name: of_app
SELECT m.app, r.domain, m.id, r.uuid, m.pinned, m.rule, m.decided_by, m.job
  FROM usersync.mappings AS m JOIN usersync.customers AS c ON c.uuid = m.customer
  JOIN usersync.customers AS r ON r.uuid = CASE WHEN c.merged_into IS NULL THEN c.uuid ELSE usersync.root_of(c.uuid) END
 WHERE m.app = %(app)s ORDER BY m.app, m.id LIMIT %(most)s

-- name: apps
SELECT a.name FROM usersync.apps AS a ORDER BY a.name

-- name: near
-- Some domains that come before and after a word in their order, or are spelt as it is behind its first letters.
(SELECT c.domain FROM usersync.customers AS c WHERE c.domain >= %(word)s ORDER BY c.domain LIMIT 200)
UNION
(SELECT c.domain FROM usersync.customers AS c WHERE c.domain < %(word)s ORDER BY c.domain DESC LIMIT 200)
UNION
(SELECT c.domain FROM usersync.customers AS c LIMIT 2000)

-- name: jobs
SELECT DISTINCT i.job, i.step FROM usersync.identities AS i WHERE i.app = %(app)s ORDER BY i.job, i.step
