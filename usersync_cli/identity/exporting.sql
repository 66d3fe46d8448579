-- The mappings as `mappings export` gives them.

-- name: export
SELECT m.app, m.id, r.domain, r.uuid, m.pinned, m.rule, m.value, m.job, m.decided_by, m.opened_at
  FROM usersync.mappings AS m JOIN usersync.customers AS c ON c.uuid = m.customer
  JOIN usersync.customers AS r ON r.uuid = CASE WHEN c.merged_into IS NULL THEN c.uuid ELSE usersync.root_of(c.uuid) END
 WHERE {which} ORDER BY m.app, m.id
