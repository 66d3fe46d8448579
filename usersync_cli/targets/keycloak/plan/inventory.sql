-- Where inventory.py reads the realm's accounts into.

-- name: stages
CREATE TEMP TABLE usersync_read (
    id text, username text, email text, first_name text, last_name text, enabled boolean, email_verified boolean, usersync_id text,
    fresh boolean, pending boolean
) ON COMMIT DROP;
CREATE TEMP TABLE usersync_held_read (kind text, name text, managed boolean, account text) ON COMMIT DROP

-- name: staged
CREATE TEMP TABLE usersync_there ON COMMIT DROP AS
SELECT *, count(*) OVER (PARTITION BY usersync_id) AS same_id FROM (SELECT DISTINCT ON (id) * FROM pg_temp.usersync_read ORDER BY id) AS r;
CREATE UNIQUE INDEX ON pg_temp.usersync_there (id);
CREATE INDEX ON pg_temp.usersync_there (username);
CREATE INDEX ON pg_temp.usersync_there (email);
CREATE INDEX ON pg_temp.usersync_there (usersync_id);
-- Of what the maps no longer name, only what we gave is ours to take.
DELETE FROM pg_temp.usersync_held_read AS h WHERE NOT h.managed AND NOT EXISTS (
    SELECT FROM pg_temp.usersync_accounts AS a
     WHERE a.account = h.account AND h.name = ANY(CASE h.kind WHEN 'role' THEN a.roles ELSE a.groups END));
CREATE TEMP TABLE usersync_held ON COMMIT DROP AS
SELECT account, COALESCE(array_agg(DISTINCT name) FILTER (WHERE kind = 'role'), '{}') AS roles,
       COALESCE(array_agg(DISTINCT name) FILTER (WHERE kind = 'group'), '{}') AS groups
  FROM pg_temp.usersync_held_read GROUP BY account;
CREATE UNIQUE INDEX ON pg_temp.usersync_held (account);
ANALYZE pg_temp.usersync_there, pg_temp.usersync_held
