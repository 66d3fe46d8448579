-- The accounts of people who left: found, kept out, counted, planned to be disabled.

-- name: kept_out
WITH given AS (SELECT * FROM unnest(%(records)s::text[], %(reasons)s::text[]) AS g(record, reason)),
kept AS (DELETE FROM pg_temp.usersync_leaving AS l USING given AS g WHERE g.record = l.record RETURNING l.key, g.reason)
INSERT INTO pg_temp.usersync_conflicts
SELECT key, reason, 'the account is enabled', true, convert_to(jsonb_build_object('id', key)::text, 'UTF8') FROM kept

-- name: count_known
SELECT (SELECT count(*) FROM pg_temp.usersync_leaving WHERE known),
       (SELECT count(*) FROM pg_temp.usersync_accounts AS a
          JOIN pg_temp.usersync_there AS t ON t.id = a.account AND t.usersync_id = a.key AND t.enabled)

-- name: count_unknown
SELECT (SELECT count(*) FROM pg_temp.usersync_leaving WHERE NOT known),
       (SELECT count(*) FROM pg_temp.usersync_there WHERE usersync_id IS NOT NULL AND enabled)

-- name: disable
-- What we gave is taken where the account can't be disabled.
INSERT INTO pg_temp.usersync_planned (number, key, account, record, action, wanted, before, after)
SELECT row_number() OVER (ORDER BY l.key COLLATE "C"), l.key, l.account, l.record, 'disable',
       jsonb_build_object('roles', '{}'::text[], 'groups', '{}'::text[], 'add_roles', '{}'::text[],
                          'remove_roles', ARRAY(SELECT unnest(h.roles) INTERSECT SELECT unnest(a.roles) ORDER BY 1),
                          'leave', ARRAY(SELECT unnest(h.groups) INTERSECT SELECT unnest(a.groups) ORDER BY 1)),
       jsonb_build_object('username', l.username, 'enabled', 'true'), jsonb_build_object('enabled', 'false')
  FROM pg_temp.usersync_leaving AS l JOIN pg_temp.usersync_gone AS g ON g.key = l.key
  LEFT JOIN pg_temp.usersync_held AS h ON h.account = l.account
  LEFT JOIN pg_temp.usersync_accounts AS a ON a.key = l.key AND a.account = l.account
 WHERE l.known = %(known)s

-- name: note_disabled
-- Before the calls: killed between two of them, an account that we locked is still known as such.
INSERT INTO usersync.accounts AS a (job, step, target, key, record, account, disabled)
SELECT DISTINCT ON (d.key) %(job)s, %(step)s, %(target)s, d.key, d.record, d.account, true FROM pg_temp.usersync_planned AS d
 WHERE d.action = 'disable'
ON CONFLICT (job, step, target, key) DO UPDATE SET disabled = true WHERE a.account = excluded.account AND NOT a.disabled

-- name: meet_again
-- Whether it goes this time is known after the call.
UPDATE usersync.rejects SET run_id = %(run_id)s WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND part = %(still)s
   AND key IN (SELECT key FROM pg_temp.usersync_planned WHERE action = 'disable')

-- name: sign_out
INSERT INTO pg_temp.usersync_planned (number, key, account, record, action, wanted, before, after)
SELECT row_number() OVER (ORDER BY i.id), i.key, i.account, NULL, 'disable', '{}',
       jsonb_build_object('username', t.username, 'enabled', 'false'), jsonb_build_object('enabled', 'false')
  FROM usersync.intents AS i JOIN pg_temp.usersync_there AS t ON t.id = i.account AND t.usersync_id = i.key AND NOT t.enabled
 WHERE i.job = %(job)s AND i.step = %(step)s AND i.target = %(target)s AND i.state = 'open' AND i.action = 'disable'
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS p WHERE p.id = i.key)
