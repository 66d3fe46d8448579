-- Customers: looking them up, and changing what they are called and what they resolve to. Used by customers.py and merging.py.

-- name: of_uuid
SELECT c.uuid, c.domain, c.merged_into, r.uuid, r.domain
  FROM usersync.customers AS c JOIN usersync.customers AS r ON r.uuid = usersync.root_of(c.uuid) WHERE c.uuid = %(uuid)s

-- name: of_domain
SELECT c.uuid FROM usersync.customers AS c WHERE c.domain = %(domain)s COLLATE "C"
UNION ALL
(SELECT f.customer FROM usersync.former_domains AS f WHERE f.domain = %(domain)s COLLATE "C" LIMIT 1)
 LIMIT 1

-- name: create
INSERT INTO usersync.customers (uuid, domain, created_by) VALUES (usersync.uuid_of(%(domain)s), %(domain)s, %(by)s)

-- name: listed
-- The page first, so that only its customers are resolved.
SELECT c.uuid, c.domain, c.merged_into, r.uuid, r.domain, c.created_at, c.created_by
  FROM (SELECT c.* FROM usersync.customers AS c
         WHERE (%(merged)s OR c.merged_into IS NULL) AND (%(search)s = '' OR pg_catalog.strpos(c.domain, %(search)s) > 0)
         ORDER BY c.domain, c.uuid LIMIT %(limit)s OFFSET %(skipped)s) AS c
  JOIN usersync.customers AS r ON r.uuid = usersync.root_of(c.uuid)
 ORDER BY c.domain, c.uuid

-- name: counted
SELECT count(*) FROM usersync.customers AS c
 WHERE (%(merged)s OR c.merged_into IS NULL) AND (%(search)s = '' OR pg_catalog.strpos(c.domain, %(search)s) > 0)

-- name: former
SELECT f.domain, f.until, f.renamed_by, f.reason FROM usersync.former_domains AS f WHERE f.customer = %(uuid)s ORDER BY f.until, f.domain

-- name: made
SELECT c.created_at, c.created_by, c.run_id FROM usersync.customers AS c WHERE c.uuid = %(uuid)s

-- name: merges
-- Each merge of a customer into this one or of this one into another, those that were undone too; the newest first.
SELECT m.id, m.customer, c.domain, m.merged_into, i.domain, m.domain, m.merged_at, m.merged_by, m.reason, m.undone_at, m.undone_by,
       m.undone_reason
  FROM usersync.merges AS m
  LEFT JOIN usersync.customers AS c ON c.uuid = m.customer LEFT JOIN usersync.customers AS i ON i.uuid = m.merged_into
 WHERE m.customer = %(uuid)s OR m.merged_into = %(uuid)s ORDER BY m.id DESC LIMIT %(limit)s

-- name: resolving
-- How many other customers resolve to this one.
SELECT COALESCE((SELECT k.size FROM usersync.clusters AS k WHERE k.root = %(uuid)s), 0)

-- name: ids
-- How many ids of each app this customer has, with those of all customers that resolve to it.
SELECT m.app, count(*)
  FROM (SELECT %(uuid)s::uuid AS uuid UNION ALL
        SELECT x.customer FROM usersync.clusters AS k JOIN usersync.merged_customers AS x ON x.cluster = k.cluster WHERE k.root = %(uuid)s) AS c
  JOIN usersync.mappings AS m ON m.customer = c.uuid GROUP BY m.app ORDER BY m.app

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
