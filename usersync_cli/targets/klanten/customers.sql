-- How customers.py writes Klanten's uuids into the map.

-- name: state
WITH c AS (
    SELECT COALESCE((SELECT c.uuid FROM usersync.customers AS c WHERE c.domain = %(domain)s),
                    (SELECT d.customer FROM usersync.former_domains AS d WHERE d.domain = %(domain)s ORDER BY d.until DESC LIMIT 1)) AS uuid
), r AS (SELECT usersync.root_of(c.uuid) AS ours, usersync.root_of(%(uuid)s::uuid) AS theirs FROM c)
SELECT CASE WHEN r.ours IS NULL OR r.theirs = r.ours THEN 'known'
            WHEN r.theirs IS NOT NULL THEN 'other'
            WHEN EXISTS (SELECT FROM usersync.identity_conflicts AS i
                          WHERE i.kind = 'uuid' AND i.uuid = %(uuid)s::uuid AND i.status IN ('open', 'rejected', 'ignored')) THEN 'asked'
            ELSE 'new' END
  FROM r

-- name: adopt
WITH ours AS (
    SELECT COALESCE((SELECT c.uuid FROM usersync.customers AS c WHERE c.domain = %(domain)s),
                    (SELECT d.customer FROM usersync.former_domains AS d WHERE d.domain = %(domain)s ORDER BY d.until DESC LIMIT 1)) AS uuid
), made AS (
    INSERT INTO usersync.customers (uuid, merged_into, created_by, run_id)
    SELECT %(uuid)s::uuid, ours.uuid, %(by)s::text, %(run)s FROM ours
    RETURNING uuid, merged_into
)
INSERT INTO usersync.merges (customer, merged_into, merged_by, reason)
SELECT uuid, merged_into, %(by)s::text, 'Klanten made this customer for our domain, with a uuid of its own' FROM made
