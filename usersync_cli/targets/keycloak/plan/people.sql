-- How people.py stages people and what they are to have.

-- name: people
CREATE TEMP TABLE usersync_conflicts (
    id text, reason text NOT NULL, detail text NOT NULL, whole boolean NOT NULL, document bytea
) ON COMMIT DROP;
INSERT INTO pg_temp.usersync_conflicts
SELECT NULL, 'no_key', '', true, convert_to((to_jsonb(a) - '{_key,nth}'::text[])::text, 'UTF8')
  FROM pg_temp.usersync_all AS a WHERE id IS NULL;
CREATE TEMP TABLE usersync_people ON COMMIT DROP AS
SELECT id, lower(NULLIF(btrim(username), '') @collate@) AS login, lower(NULLIF(btrim(email), '') @collate@) AS email,
       NULLIF(btrim(first_name), '') AS first_name, NULLIF(btrim(last_name), '') AS last_name, COALESCE(roles, '{}') AS roles,
       _key AS record, convert_to((to_jsonb(a) - '{_key,nth}'::text[])::text, 'UTF8') AS document,
       NULL::text AS account, NULL::text AS rule, false AS whole, false AS refused
  FROM pg_temp.usersync_all AS a WHERE id IS NOT NULL AND nth = 1;
CREATE UNIQUE INDEX ON pg_temp.usersync_people (id);
CREATE INDEX ON pg_temp.usersync_people (login);
CREATE INDEX ON pg_temp.usersync_people (email);
ANALYZE pg_temp.usersync_people

-- name: role_map
CREATE TEMP TABLE usersync_role_map ON COMMIT DROP AS
SELECT name, role, position FROM unnest(%(names)s::text[], %(roles)s::text[]) WITH ORDINALITY AS m(name, role, position);

-- name: group_map
CREATE TEMP TABLE usersync_group_map ON COMMIT DROP AS SELECT role, path FROM unnest(%(of)s::text[], %(paths)s::text[]) AS m(role, path)

-- name: mapped
CREATE TEMP TABLE usersync_mapped ON COMMIT DROP AS
SELECT p.id, btrim(r.name) AS name, COALESCE(m.role, %(default)s::text) AS role, COALESCE(m.position, 1000000) AS position
  FROM pg_temp.usersync_people AS p CROSS JOIN LATERAL unnest(p.roles) AS r(name)
  LEFT JOIN pg_temp.usersync_role_map AS m ON m.name = lower(btrim(r.name))

-- name: wanted
INSERT INTO pg_temp.usersync_conflicts
SELECT id, 'unknown_role', 'role ' || string_agg(DISTINCT name, ', '),
       NOT EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.usersync_id = m.id AND t.same_id = 1)
  FROM pg_temp.usersync_mapped AS m WHERE role IS NULL GROUP BY id;
CREATE TEMP TABLE usersync_wanted ON COMMIT DROP AS
SELECT p.id, COALESCE(r.roles, '{}') AS roles, COALESCE(g.groups, '{}') AS groups
  FROM pg_temp.usersync_people AS p
  LEFT JOIN (SELECT id, array_agg(DISTINCT role) AS roles FROM pg_temp.usersync_mapped
              WHERE role IS NOT NULL GROUP BY id) AS r ON r.id = p.id
  LEFT JOIN (SELECT DISTINCT ON (m.id) m.id, ARRAY[g.path] AS groups FROM pg_temp.usersync_mapped AS m
               JOIN pg_temp.usersync_group_map AS g ON g.role = m.role ORDER BY m.id, m.position, m.role) AS g ON g.id = p.id;
CREATE UNIQUE INDEX ON pg_temp.usersync_wanted (id);
UPDATE pg_temp.usersync_people AS p SET whole = true FROM pg_temp.usersync_conflicts AS c WHERE c.id = p.id AND c.whole

-- name: needed
SELECT DISTINCT 'role', unnest(w.roles) FROM pg_temp.usersync_wanted AS w JOIN pg_temp.usersync_people AS p ON p.id = w.id
 WHERE NOT p.whole
UNION
SELECT DISTINCT 'group', unnest(w.groups) FROM pg_temp.usersync_wanted AS w JOIN pg_temp.usersync_people AS p ON p.id = w.id
 WHERE NOT p.whole
ORDER BY 1, 2
