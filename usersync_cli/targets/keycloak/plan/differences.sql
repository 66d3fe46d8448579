-- What differences.py makes of people and accounts; {...} are its pieces.

-- name: pairs
-- What is known of an account is what is known of its owner; of one that another id took over, of the owner before.
CREATE TEMP TABLE usersync_pairs ON COMMIT DROP AS
SELECT p.id, p.login, p.email, p.first_name, p.last_name, p.account, p.rule, p.refused, p.record, p.document, w.roles, w.groups,
       t.username AS old_login, t.email AS old_email, t.first_name AS old_first_name, t.last_name AS old_last_name, t.enabled, t.fresh,
       t.pending, a.mail,
       COALESCE(h.roles, '{{}}') AS old_roles, COALESCE(h.groups, '{{}}') AS old_groups,
       COALESCE(a.roles, '{{}}') AS gave_roles, COALESCE(a.groups, '{{}}') AS gave_groups, COALESCE(a.disabled, false) AS disabled,
       b.key IS NOT NULL AS begun
  FROM pg_temp.usersync_people AS p
  JOIN pg_temp.usersync_wanted AS w ON w.id = p.id
  LEFT JOIN pg_temp.usersync_there AS t ON t.id = p.account
  LEFT JOIN pg_temp.usersync_held AS h ON h.account = p.account
  LEFT JOIN (SELECT DISTINCT ON (a.account) a.* FROM pg_temp.usersync_accounts AS a JOIN pg_temp.usersync_there AS t ON t.id = a.account
              ORDER BY a.account, a.key = t.usersync_id DESC NULLS LAST) AS a
       ON a.account = p.account AND (a.key = p.id OR p.rule IN ('ours', 'came_back'))
  LEFT JOIN pg_temp.usersync_begun AS b ON b.key = p.id
 WHERE NOT p.whole

-- name: moves
-- Who is to have another user name or e-mail address than now, or any at all.
CREATE TEMP TABLE usersync_moves ON COMMIT DROP AS
SELECT * FROM (
    SELECT id, account, old_login, old_email, false AS keeps_login, false AS keeps_email,
           CASE WHEN NOT %(by_email)s AND (account IS NULL OR (%(editable)s AND login <> old_login)) THEN login END AS login,
           CASE WHEN email <> COALESCE(old_email, '') AND 'email' = ANY(%(fields)s) THEN email END AS email
      FROM pg_temp.usersync_pairs WHERE NOT refused) AS m
 WHERE login IS NOT NULL OR email IS NOT NULL

-- name: index_moves
CREATE INDEX ON pg_temp.usersync_moves (account);
CREATE INDEX ON pg_temp.usersync_moves (login);
CREATE INDEX ON pg_temp.usersync_moves (email);
ANALYZE pg_temp.usersync_moves

-- name: keep_login
UPDATE pg_temp.usersync_moves AS m SET keeps_login = true WHERE login IS NOT NULL AND NOT keeps_login
   AND (EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.login = m.login AND o.id <> m.id)
        OR {login_is_held}
        OR %(login_with_email)s AND {login_is_an_address})

-- name: keep_email
UPDATE pg_temp.usersync_moves AS m SET keeps_email = true WHERE email IS NOT NULL AND NOT keeps_email AND NOT %(duplicates)s
   AND (EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.email = m.email AND o.id <> m.id)
        OR {email_is_held}
        OR %(login_with_email)s AND NOT %(by_email)s AND {email_is_a_login})

-- name: username_changed
INSERT INTO pg_temp.usersync_conflicts
SELECT id, 'username_changed', 'Edit username is off in Realm settings > Login; all else is kept equal', false
  FROM pg_temp.usersync_pairs WHERE login <> old_login AND NOT %(editable)s AND NOT %(by_email)s

-- name: locked_by_hand
INSERT INTO pg_temp.usersync_conflicts
SELECT id, 'locked_by_hand', 'enabled; all else is kept equal', false FROM pg_temp.usersync_pairs WHERE NOT enabled AND NOT disabled

-- name: extra_role
INSERT INTO pg_temp.usersync_conflicts
SELECT id, 'extra_role', (SELECT 'not given by this job: ' || string_agg(one, ', ' ORDER BY one) FROM
                          (({extra_roles})
                           UNION ({extra_groups})) AS e(one)), false
  FROM pg_temp.usersync_pairs
 WHERE account IS NOT NULL AND %(extra)s = 'report'
   AND (EXISTS ({extra_roles})
        OR EXISTS ({extra_groups}))

-- name: documents
UPDATE pg_temp.usersync_conflicts AS c SET document = p.document FROM pg_temp.usersync_people AS p WHERE p.id = c.id

-- name: calls
-- What is to be done to each account; NULL or empty where nothing is.
CREATE TEMP TABLE usersync_calls ON COMMIT DROP AS
SELECT p.*,
       CASE WHEN p.account IS NOT NULL AND NOT keeps_login THEN m.login END AS new_login,
       CASE WHEN p.account IS NOT NULL AND NOT keeps_email THEN m.email END AS new_email,
       CASE WHEN first_name <> COALESCE(old_first_name, '') AND NOT refused AND 'first_name' = ANY(%(fields)s)
            THEN first_name END AS new_first_name,
       CASE WHEN last_name <> COALESCE(old_last_name, '') AND NOT refused AND 'last_name' = ANY(%(fields)s)
            THEN last_name END AS new_last_name,
       CASE WHEN NOT keeps_login AND {login_is_wanted}
            THEN left('{parked}' || replace(p.account, '-', ''), %(longest)s) END AS park_login,
       CASE WHEN NOT keeps_email AND {email_is_wanted} THEN p.account || '{parked_mail}' END AS park_email,
       CASE WHEN NOT enabled AND disabled AND NOT refused THEN true END AS enables,
       {add_roles} AS add_roles,
       {remove_roles} AS remove_roles,
       {join_groups} AS join_groups,
       {leave_groups} AS leave_groups,
       CASE WHEN p.account IS NULL THEN 'create' WHEN begun AND fresh THEN 'finish' WHEN rule <> 'ours' THEN 'adopt'
            ELSE 'update' END AS action
  FROM pg_temp.usersync_pairs AS p LEFT JOIN pg_temp.usersync_moves AS m ON m.id = p.id

-- name: mails
UPDATE pg_temp.usersync_calls SET mail = CASE
       WHEN NOT %(notify)s OR mail IN ('sent', 'dropped') OR (account IS NOT NULL AND NOT pending) THEN mail
       WHEN account IS NULL OR (action = 'finish' AND mail IS NULL) THEN 'first'
       WHEN mail = 'owed' THEN 'again' ELSE mail END

-- name: mail_failed
INSERT INTO pg_temp.usersync_conflicts
SELECT id, 'mail_failed', CASE mail WHEN 'again' THEN 'the next run sends it' ELSE 'it may have been sent' END, false
  FROM pg_temp.usersync_calls WHERE %(notify)s AND pending AND mail IN ('again', 'sending')

-- name: planned
CREATE TEMP TABLE usersync_planned ON COMMIT DROP AS
WITH body AS (
    SELECT *,
           jsonb_strip_nulls(jsonb_build_object('username', new_login, 'email', new_email, 'firstName', new_first_name,
               'lastName', new_last_name, 'enabled', enables,
               'emailVerified', CASE WHEN new_email IS NOT NULL THEN %(verified)s END)) AS changes,
           jsonb_strip_nulls(jsonb_build_object('username', login, 'email', email,
               'firstName', CASE WHEN 'first_name' = ANY(%(fields)s) THEN first_name END,
               'lastName', CASE WHEN 'last_name' = ANY(%(fields)s) THEN last_name END,
               'enabled', true, 'emailVerified', %(verified)s, 'requiredActions', %(actions)s::text[],
               'attributes', jsonb_build_object(%(attribute)s::text, ARRAY[id]), 'groups', groups)) AS made,
           add_roles <> '{{}}' OR remove_roles <> '{{}}' AS moves_roles, join_groups <> '{{}}' OR leave_groups <> '{{}}' AS moves_groups,
           COALESCE(mail IN ('first', 'again'), false) AS mails,
           COALESCE(%(notify)s AND pending AND mail IN ('again', 'sending'), false) AS waits,
           EXISTS (SELECT FROM pg_temp.usersync_conflicts AS c WHERE c.id = p.id AND c.reason <> 'mail_failed') AS conflicted
      FROM pg_temp.usersync_calls AS p
)
SELECT row_number() OVER (ORDER BY id COLLATE "C") AS number, id AS key, account, record, action, rule,
       CASE WHEN mails THEN jsonb_build_object('mail', mail, 'alone', NOT conflicted) ELSE '{{}}' END
       || jsonb_build_object('counted', CASE WHEN conflicted OR waits THEN 'rejected' WHEN action = 'create' THEN 'inserted'
                                        ELSE 'updated' END,
                             'quiet', action = 'update' AND changes = '{{}}' AND NOT moves_roles AND NOT moves_groups)
       || jsonb_build_object('record', record, 'document', convert_from(document, 'UTF8'), 'roles', roles, 'groups', groups,
                          'add_roles', add_roles, 'remove_roles', remove_roles)
       || CASE WHEN action = 'create' THEN jsonb_build_object('user', made)
               ELSE jsonb_build_object('changes', changes, 'join', join_groups, 'leave', leave_groups, 'username', old_login)
                    || CASE WHEN park_login IS NULL AND park_email IS NULL THEN '{{}}' ELSE jsonb_build_object(
                           'park', jsonb_strip_nulls(jsonb_build_object('username', park_login, 'email', park_email)),
                           'back', jsonb_strip_nulls(jsonb_build_object('username', CASE WHEN park_login IS NOT NULL THEN old_login END,
                                                                        'email', CASE WHEN park_email IS NOT NULL THEN old_email END))) END
          END AS wanted,
       CASE WHEN action <> 'create' THEN jsonb_strip_nulls(jsonb_build_object(
           'username', CASE WHEN new_login IS NOT NULL THEN old_login END, 'email', CASE WHEN new_email IS NOT NULL THEN old_email END,
           'first_name', CASE WHEN new_first_name IS NOT NULL THEN old_first_name END,
           'last_name', CASE WHEN new_last_name IS NOT NULL THEN old_last_name END, 'enabled', CASE WHEN enables THEN 'false' END,
           'roles', CASE WHEN moves_roles THEN array_to_string(old_roles, ', ') END,
           'groups', CASE WHEN moves_groups THEN array_to_string(old_groups, ', ') END)) END AS before,
       jsonb_strip_nulls(CASE WHEN action = 'create' THEN jsonb_build_object(
           'username', login, 'email', email, 'first_name', first_name, 'last_name', last_name,
           'roles', array_to_string(roles, ', '), 'groups', array_to_string(groups, ', '))
       ELSE jsonb_build_object(
           'usersync_id', CASE WHEN action = 'adopt' THEN id END, 'username', new_login, 'email', new_email, 'first_name', new_first_name,
           'last_name', new_last_name, 'enabled', enables::text,
           'roles', CASE WHEN moves_roles THEN {roles_after} END,
           'groups', CASE WHEN moves_groups THEN {groups_after} END)
       END) AS after
  FROM body WHERE action <> 'update' OR changes <> '{{}}' OR moves_roles OR moves_groups OR mails
