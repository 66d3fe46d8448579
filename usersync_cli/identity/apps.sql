-- Apps, and which database role may read which app's rows. Used by apps.py.

-- name: add
INSERT INTO usersync.apps (name, added_by) VALUES (%(app)s, %(by)s) ON CONFLICT DO NOTHING

-- name: listed
SELECT a.name, a.added_at, a.added_by, COALESCE(m.ids, 0),
       ARRAY(SELECT r.role::text FROM usersync.app_roles AS r WHERE r.app = a.name ORDER BY 1),
       ARRAY(SELECT DISTINCT i.job || ', step ' || i.step FROM usersync.identities AS i WHERE i.app = a.name ORDER BY 1)
  FROM usersync.apps AS a LEFT JOIN (SELECT n.app, count(*) AS ids FROM usersync.mappings AS n GROUP BY n.app) AS m ON m.app = a.name
 ORDER BY a.name

-- name: ids
SELECT count(*) FROM usersync.mappings AS m WHERE m.app = %(app)s

-- name: roles_of
SELECT r.role::text FROM usersync.app_roles AS r WHERE r.app = %(app)s ORDER BY 1

-- name: remove
WITH crowded AS (DELETE FROM usersync.crowded_domains AS k WHERE k.app = %(app)s),
     filled AS (DELETE FROM usersync.identities AS i WHERE i.app = %(app)s),
     conflicts AS (UPDATE usersync.identity_conflicts AS c SET status = 'over', answered_at = now(), answered_by = %(by)s
                    WHERE c.app = %(app)s AND c.status = 'open')
DELETE FROM usersync.apps AS a WHERE a.name = %(app)s

-- name: role
-- What a role may do with our tables by other ways than a grant of an app: null where there is no such role.
SELECT r.rolsuper OR r.rolbypassrls,
       pg_catalog.has_schema_privilege(r.oid, 'usersync', 'USAGE')
           AND pg_catalog.has_table_privilege(r.oid, 'usersync.mappings', 'INSERT'),
       pg_catalog.has_any_column_privilege(r.oid, 'usersync.customers', 'SELECT')
           OR pg_catalog.has_any_column_privilege(r.oid, 'usersync.mappings', 'SELECT')
  FROM pg_catalog.pg_roles AS r WHERE r.rolname = %(role)s

-- name: roles
SELECT r.rolname::text FROM pg_catalog.pg_roles AS r WHERE r.rolname !~ '^pg_' ORDER BY 1

-- name: allow
INSERT INTO usersync.app_roles (app, role, granted_by) VALUES (%(app)s, %(role)s, %(by)s) ON CONFLICT DO NOTHING

-- name: forbid
DELETE FROM usersync.app_roles AS r WHERE r.app = %(app)s AND r.role = %(role)s

-- name: others
SELECT count(*) FROM usersync.app_roles AS r WHERE r.role = %(role)s

-- name: may_read
SELECT pg_catalog.has_schema_privilege(r.oid, 'usersync', 'USAGE')
       AND pg_catalog.has_table_privilege(r.oid, 'usersync.customer_ids', 'SELECT')
       AND pg_catalog.has_table_privilege(r.oid, 'usersync.customer_ids_then', 'SELECT')
       AND pg_catalog.has_function_privilege(r.oid, 'usersync.customer_ids_at(timestamptz, text, text, uuid)', 'EXECUTE')
  FROM pg_catalog.pg_roles AS r WHERE r.rolname = %(role)s

-- name: has_more
-- Whether somebody granted the role a right on anything else in the schema, which needs the right on the schema too.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class AS c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS x
      JOIN pg_catalog.pg_roles AS r ON r.oid = x.grantee
     WHERE c.relnamespace = 'usersync'::regnamespace AND r.rolname = %(role)s)

-- name: owner
SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)) FROM pg_catalog.pg_class AS c
 WHERE c.oid = 'usersync.customer_ids'::regclass

-- name: has_rights
-- Whether somebody granted the role itself a right on the view; a role that was dropped has taken that with it.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class AS c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS x
      JOIN pg_catalog.pg_roles AS r ON r.oid = x.grantee
     WHERE c.oid = 'usersync.customer_ids'::regclass AND r.rolname = %(role)s)

-- name: forget
DELETE FROM usersync.app_roles AS r WHERE r.role = %(role)s
