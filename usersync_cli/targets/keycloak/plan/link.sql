-- How link.py finds which account is whose, one statement after the other; {...} are its pieces.

-- name: ours
UPDATE pg_temp.usersync_people AS p SET account = t.id, rule = 'ours' FROM pg_temp.usersync_there AS t
 WHERE t.usersync_id = p.id AND t.same_id = 1 AND NOT p.whole

-- name: two_accounts
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'two_accounts', 'usersync_id', true FROM pg_temp.usersync_people AS p
 WHERE {free} AND EXISTS (SELECT FROM pg_temp.usersync_there AS t WHERE t.usersync_id = p.id)

-- name: login_is_the_email
UPDATE pg_temp.usersync_people SET login = email WHERE %(by_email)s

-- name: no_username
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, CASE WHEN %(by_email)s THEN 'no_email' ELSE 'no_username' END,
       CASE WHEN %(by_email)s THEN 'the realm takes the e-mail address as user name' ELSE '' END, true
  FROM pg_temp.usersync_people AS p WHERE {free} AND login IS NULL

-- name: same_username
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'same_username', 'username of another person, in other letters', true FROM pg_temp.usersync_people AS p
 WHERE {free} AND NOT %(by_email)s AND EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.login = p.login AND o.id <> p.id)

-- name: came_back
-- Somebody who comes back under another id: the account is the same person's, and it was us who disabled it.
UPDATE pg_temp.usersync_people AS p SET account = t.id, rule = 'came_back'
  FROM pg_temp.usersync_there AS t JOIN pg_temp.usersync_accounts AS a ON a.account = t.id AND a.key = t.usersync_id AND a.disabled
 WHERE {free} AND t.username = p.login AND NOT t.enabled AND t.same_id = 1 AND {of_nobody}
   AND (t.email = p.email OR t.email IS NULL AND p.email IS NULL
                             AND (lower(t.first_name), lower(t.last_name)) = (lower(p.first_name), lower(p.last_name)))
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.login = p.login AND o.id <> p.id)

-- name: by_username
UPDATE pg_temp.usersync_people AS p
   SET account = t.id, rule = CASE WHEN t.email = p.email AND t.email_verified AND %(adopt)s = 'by_email_verified'
                                   THEN 'by_email_verified' ELSE 'by_username' END
  FROM pg_temp.usersync_there AS t
 WHERE {free} AND t.username = p.login AND t.usersync_id IS NULL
   AND (%(adopt)s = 'by_username' OR (%(adopt)s = 'by_email_verified' AND t.email = p.email AND t.email_verified))

-- name: username_taken
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'username_taken', {taken_by_name}, true
  FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.username = p.login {owner_known}
 WHERE {free} AND NOT %(by_email)s AND NOT {gives_up_name}

-- name: username_is_an_address
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'username_taken', 'it is the e-mail address of account ' || min(t.id) || ', with which that one logs in', true
  FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.email = p.login
 WHERE {free} AND %(login_with_email)s AND NOT %(by_email)s AND NOT {gives_up_email} GROUP BY p.id

-- name: invalid_username
-- Keycloak's own rules for user names; by these a preview knows what the server would say
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'invalid_username', 'username', true FROM pg_temp.usersync_people AS p
 WHERE {free} AND NOT %(by_email)s AND (length(login) NOT BETWEEN %(shortest)s AND %(longest)s OR login ~ %(refused)s)

-- name: same_email
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'same_email', 'email of another person', true FROM pg_temp.usersync_people AS p
 WHERE {free} AND NOT %(duplicates)s AND EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.email = p.email AND o.id <> p.id)

-- name: by_email_verified
UPDATE pg_temp.usersync_people AS p SET account = t.id, rule = 'by_email_verified'
  FROM (SELECT DISTINCT ON (email) * FROM pg_temp.usersync_there WHERE email_verified AND usersync_id IS NULL ORDER BY email, id) AS t
 WHERE {free} AND %(adopt)s = 'by_email_verified' AND t.email = p.email
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.account = t.id)
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_people AS o WHERE o.email = p.email AND o.id <> p.id)

-- name: email_taken
INSERT INTO pg_temp.usersync_conflicts
SELECT DISTINCT ON (p.id) p.id, 'email_taken', {taken_by_email}, true
  FROM pg_temp.usersync_people AS p JOIN pg_temp.usersync_there AS t ON t.email = p.email {owner_known}
 WHERE {free} AND NOT %(duplicates)s AND NOT {gives_up_email}
 ORDER BY p.id, t.id

-- name: invalid_email
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'invalid_email', 'email', true FROM pg_temp.usersync_people AS p
 WHERE {free} AND email !~ '^[^@[:space:]]+@[^@[:space:]]+$'

-- name: no_email
INSERT INTO pg_temp.usersync_conflicts
SELECT p.id, 'no_email', 'notify: email', true FROM pg_temp.usersync_people AS p WHERE {free} AND %(notify)s AND email IS NULL
