-- What known.py writes down.

-- name: note_accounts
INSERT INTO usersync.accounts AS a (job, step, target, key, record, account, disabled, roles, groups, mail)
SELECT %(job)s, %(step)s, %(target)s, p.id, p.record, p.account, p.disabled AND NOT p.enabled,
       CASE WHEN d.key IS NULL THEN p.roles ELSE ARRAY(SELECT unnest(p.gave_roles) UNION SELECT unnest(p.roles) ORDER BY 1) END,
       CASE WHEN d.key IS NULL THEN p.groups ELSE ARRAY(SELECT unnest(p.gave_groups) UNION SELECT unnest(p.groups) ORDER BY 1) END,
       CASE WHEN p.mail IN ('first', 'again') THEN 'owed' ELSE p.mail END
  FROM pg_temp.usersync_calls AS p LEFT JOIN pg_temp.usersync_planned AS d ON d.key = p.id
 WHERE p.account IS NOT NULL
ON CONFLICT (job, step, target, key) DO UPDATE
   SET record = excluded.record, account = excluded.account, roles = excluded.roles, groups = excluded.groups, mail = excluded.mail,
       disabled = CASE WHEN a.account = excluded.account THEN a.disabled ELSE excluded.disabled END
                  AND NOT EXISTS (SELECT FROM pg_temp.usersync_pairs AS p WHERE p.id = excluded.key AND p.enabled)
 WHERE (a.record, a.account, a.roles, a.groups, a.mail)
       IS DISTINCT FROM (excluded.record, excluded.account, excluded.roles, excluded.groups, excluded.mail)
    OR (a.disabled AND EXISTS (SELECT FROM pg_temp.usersync_pairs AS p WHERE p.id = excluded.key AND p.enabled))

-- name: forget_accounts
-- Whose account was deleted by hand, or is another id's now.
DELETE FROM usersync.accounts AS a WHERE job = %(job)s AND step = %(step)s AND target = %(target)s
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.id = a.account
                      AND (t.usersync_id IS NOT DISTINCT FROM a.key OR NOT EXISTS (
                              SELECT FROM pg_temp.usersync_accounts AS b WHERE b.account = a.account AND b.key = t.usersync_id)))
