-- Customers: looking them up, and making them.

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
