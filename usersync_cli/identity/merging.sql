-- What a person does to customers: what they are called, and what they resolve to.

-- name: former_no_more
DELETE FROM usersync.former_domains AS f WHERE f.customer = %(uuid)s AND f.domain = %(domain)s COLLATE "C"

-- name: leave_behind
INSERT INTO usersync.former_domains (domain, customer, renamed_by, reason) VALUES (%(domain)s, %(uuid)s, %(by)s, %(reason)s)

-- name: merge
INSERT INTO usersync.merges (customer, merged_into, merged_by, reason) VALUES (%(uuid)s, %(into)s, %(by)s, %(reason)s) RETURNING id

-- name: point
UPDATE usersync.customers AS c SET merged_into = %(into)s WHERE c.uuid = %(uuid)s

-- name: lender
-- Of the customers that resolve to this one, the one that lends it a domain.
SELECT m.id, m.customer, m.domain FROM usersync.clusters AS k
  JOIN usersync.customers AS r ON r.uuid = k.root
  JOIN usersync.merges AS m ON m.domain = r.domain AND m.undone_at IS NULL
 WHERE k.root = %(uuid)s

-- name: may_lend
-- Of the customers that resolve to this one, the first to be merged that has a domain.
SELECT m.id, m.customer, c.domain FROM usersync.clusters AS k
  JOIN usersync.merged_customers AS x ON x.cluster = k.cluster
  JOIN usersync.customers AS c ON c.uuid = x.customer AND c.domain IS NOT NULL
  JOIN usersync.merges AS m ON m.customer = c.uuid AND m.undone_at IS NULL
 WHERE k.root = %(uuid)s ORDER BY m.id LIMIT 1

-- name: call
UPDATE usersync.customers AS c SET domain = %(domain)s WHERE c.uuid = %(uuid)s

-- name: lend
UPDATE usersync.merges AS m SET domain = %(domain)s WHERE m.id = %(merge)s

-- name: settle
-- Conflicts between customers that have become one. The reason says which merge it was, so that they are open again without it.
UPDATE usersync.identity_conflicts AS c SET status = 'over', answered_at = now(), answered_by = %(by)s, reason = 'merge ' || %(merge)s::text
  FROM (SELECT o.id FROM usersync.identity_conflicts AS o
          JOIN usersync.mappings AS m ON m.app = o.app AND m.id = o.app_id
         WHERE o.status = 'open' AND o.kind = 'domain'
           AND usersync.root_of(m.customer) = %(root)s
           AND usersync.root_of(COALESCE((SELECT d.uuid FROM usersync.customers AS d WHERE d.domain = o.domain),
                                         (SELECT f.customer FROM usersync.former_domains AS f WHERE f.domain = o.domain LIMIT 1), o.uuid))
               = %(root)s) AS x
 WHERE c.id = x.id

-- name: unsettle
UPDATE usersync.identity_conflicts AS c SET status = 'open', answered_at = NULL, answered_by = NULL, reason = NULL
 WHERE c.status = 'over' AND c.reason = 'merge ' || %(merge)s::text

-- name: standing
SELECT m.id, m.merged_into FROM usersync.merges AS m WHERE m.customer = %(uuid)s AND m.undone_at IS NULL

-- name: lent
-- The merged customer whose domain another one goes by.
SELECT m.customer FROM usersync.merges AS m WHERE m.domain = %(domain)s COLLATE "C" AND m.undone_at IS NULL

-- name: undo
UPDATE usersync.merges AS m SET undone_at = now(), undone_by = %(by)s, undone_reason = %(reason)s WHERE m.id = %(merge)s

-- name: part
UPDATE usersync.customers AS c SET merged_into = NULL WHERE c.uuid = %(uuid)s
