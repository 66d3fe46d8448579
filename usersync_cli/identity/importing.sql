-- A CSV file of mappings, in a temp table, against the map.

-- name: open
-- number: the line of the file. why, detail: what is wrong with the line by itself.
CREATE TEMP TABLE usersync_lines (
    number bigint NOT NULL, app text COLLATE "C", id text COLLATE "C", domain text COLLATE "C", uuid uuid,
    why text, detail text, document bytea, customer uuid, is_new boolean NOT NULL DEFAULT false
) ON COMMIT DROP

-- name: copy
COPY pg_temp.usersync_lines (number, app, id, domain, uuid, why, detail, document) FROM STDIN

-- name: unknown_apps
UPDATE pg_temp.usersync_lines AS l SET why = 'unknown_app', detail = 'there is no such app'
 WHERE l.why IS NULL AND NOT EXISTS (SELECT FROM usersync.apps AS a WHERE a.name = l.app)

-- name: twice
-- Lines that say different things of one id: nobody knows which of them is right.
UPDATE pg_temp.usersync_lines AS l SET why = 'said_twice', detail = 'lines ' || d.first || ' and ' || d.last || ' say different things of one id'
  FROM (SELECT s.app, s.id, min(s.number) AS first, max(s.number) AS last FROM pg_temp.usersync_lines AS s WHERE s.why IS NULL
         GROUP BY s.app, s.id HAVING count(*) > 1 AND count(DISTINCT (s.domain, s.uuid)) > 1) AS d
 WHERE l.app = d.app AND l.id = d.id AND l.why IS NULL

-- name: customers
-- Whose each line is: the customer of its uuid, of its domain, or of what its domain was before.
CREATE TEMP TABLE usersync_named ON COMMIT DROP AS
SELECT n.domain, n.uuid, k.uuid AS by_uuid, COALESCE(c.uuid, f.customer) AS by_domain
  FROM (SELECT DISTINCT l.domain, l.uuid FROM pg_temp.usersync_lines AS l WHERE l.why IS NULL) AS n
  LEFT JOIN usersync.customers AS k ON k.uuid = n.uuid
  LEFT JOIN usersync.customers AS c ON c.domain = n.domain
  LEFT JOIN (SELECT DISTINCT ON (d.domain) d.domain, d.customer FROM usersync.former_domains AS d ORDER BY d.domain, d.customer) AS f
         ON f.domain = n.domain

-- name: differ
-- The uuid of one customer with the domain of another; a domain with two uuids, or a uuid with two domains, that are all new.
WITH wrong AS (
    SELECT n.domain, n.uuid,
           CASE WHEN n.domain IS NULL THEN 'no customer has this uuid'
                WHEN n.by_uuid IS NULL AND n.by_domain IS NULL THEN 'the file has another uuid or domain for it'
                WHEN n.by_uuid IS NULL THEN 'the domain is known by another uuid'
                WHEN n.by_domain IS NULL THEN 'the uuid is known by another domain'
                ELSE 'the uuid and the domain are two customers' END AS detail
      FROM (SELECT n.*, count(n.uuid) FILTER (WHERE n.by_uuid IS NULL) OVER (PARTITION BY n.domain) AS uuids,
                   count(n.domain) FILTER (WHERE n.by_domain IS NULL) OVER (PARTITION BY n.uuid) AS domains
              FROM pg_temp.usersync_named AS n) AS n
     WHERE n.uuid IS NOT NULL
       AND CASE WHEN n.by_uuid IS NULL AND n.by_domain IS NULL THEN n.domain IS NULL OR n.uuids > 1 OR n.domains > 1
                WHEN n.domain IS NULL THEN n.by_uuid IS NULL
                WHEN n.by_uuid IS NULL OR n.by_domain IS NULL THEN true
                WHEN n.by_uuid = n.by_domain THEN false
                ELSE usersync.root_of(n.by_uuid) <> usersync.root_of(n.by_domain) END
)
UPDATE pg_temp.usersync_lines AS l SET why = CASE WHEN w.domain IS NULL THEN 'unknown_customer' ELSE 'uuid_and_domain_differ' END, detail = w.detail
  FROM wrong AS w WHERE w.uuid = l.uuid AND COALESCE(w.domain, '') = COALESCE(l.domain, '') AND l.why IS NULL

-- name: name
-- Equality alone can be hashed: what is NULL is compared as ''.
-- A domain that is new gets the uuid that the file has for it, or that of the domain.
UPDATE pg_temp.usersync_lines AS l
   SET customer = COALESCE(n.by_domain, n.by_uuid, o.uuid, usersync.uuid_of(n.domain)), is_new = n.by_domain IS NULL AND n.by_uuid IS NULL
  FROM pg_temp.usersync_named AS n
  LEFT JOIN (SELECT s.domain, max(s.uuid::text)::uuid AS uuid FROM pg_temp.usersync_lines AS s
              WHERE s.why IS NULL AND s.domain IS NOT NULL GROUP BY s.domain) AS o ON o.domain = n.domain
 WHERE COALESCE(n.domain, '') = COALESCE(l.domain, '') AND COALESCE(n.uuid::text, '') = COALESCE(l.uuid::text, '') AND l.why IS NULL

-- name: give
INSERT INTO pg_temp.usersync_given (app, id, customer)
SELECT DISTINCT ON (l.app, l.id) l.app, l.id, l.customer FROM pg_temp.usersync_lines AS l WHERE l.why IS NULL ORDER BY l.app, l.id

-- name: taken
UPDATE pg_temp.usersync_lines AS l SET why = 'somebody_elses', detail = 'the id is customer ' || COALESCE(c.domain, m.mapped::text) || '; -' || '-move moves it'
  FROM pg_temp.usersync_looked AS m
  LEFT JOIN usersync.customers AS c ON c.uuid = usersync.root_of(m.mapped)
 WHERE m.what = 'moved' AND m.app = l.app AND m.id = l.id AND l.why IS NULL

-- name: drop_taken
DELETE FROM pg_temp.usersync_looked AS m WHERE m.what = 'moved'

-- name: add_customers
INSERT INTO usersync.customers (uuid, domain, created_by)
SELECT DISTINCT l.customer, l.domain, %(by)s FROM pg_temp.usersync_lines AS l WHERE l.why IS NULL AND l.is_new ORDER BY l.domain

-- name: bad
SELECT l.number, l.why, l.detail FROM pg_temp.usersync_lines AS l WHERE l.why IS NOT NULL ORDER BY l.number LIMIT %(most)s

-- name: counts
SELECT l.why, count(*) FROM pg_temp.usersync_lines AS l GROUP BY l.why

-- name: rejects
SELECT 'line ' || l.number AS key, '' AS part, l.why AS reason, l.detail,
       COALESCE(l.document, convert_to(json_build_object('app', l.app, 'id', l.id, 'domain', l.domain, 'uuid', l.uuid)::text, 'UTF8')) AS document,
       NULL::text AS version
  FROM pg_temp.usersync_lines AS l WHERE l.why IS NOT NULL

-- name: forget
-- What this file had wrong before, and has no more.
DELETE FROM usersync.rejects AS r WHERE r.job = %(job)s AND r.step = %(step)s
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_lines AS l WHERE l.why IS NOT NULL AND r.key = 'line ' || l.number)

-- name: new_customers
SELECT count(DISTINCT l.customer) FROM pg_temp.usersync_lines AS l WHERE l.why IS NULL AND l.is_new
