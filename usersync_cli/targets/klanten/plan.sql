-- What plan.py finds out about the ids that are desired, in temp tables of the transaction that plans.

-- name: stages
CREATE TEMP TABLE usersync_conflicts (id text, reason text NOT NULL, detail text NOT NULL, document bytea NOT NULL) ON COMMIT DROP;
CREATE TEMP TABLE usersync_odd (key text NOT NULL, reason text NOT NULL, detail text NOT NULL) ON COMMIT DROP;
-- What Klanten said. ours: the desired domain in normal form; normal: its own, NULL where that is not a domain. uuid NULL: unknown there.
CREATE TEMP TABLE usersync_there (key text NOT NULL, ours text NOT NULL, uuid uuid, domain text, normal text) ON COMMIT DROP

-- name: apps
CREATE TEMP TABLE usersync_apps ON COMMIT DROP AS SELECT ours, theirs FROM unnest(%(ours)s::text[], %(theirs)s::text[]) AS a(ours, theirs)

-- name: ids
-- state: known (we remember that it is there), refused (Klanten has refused it as it is), asked; NULL: to be asked.
CREATE TEMP TABLE usersync_ids ON COMMIT DROP AS
SELECT row_number() OVER (ORDER BY r.app COLLATE "C", r.id COLLATE "C") AS number, r.app || ':' || r.id AS key, r.app, r.id, a.theirs,
       NULLIF(btrim(r.domain), '') AS domain, a.theirs || ':' || btrim(r.domain) AS record, CASE WHEN k.key IS NOT NULL THEN 'known' END AS state
  FROM pg_temp.usersync_rows AS r JOIN pg_temp.usersync_apps AS a ON a.ours = r.app
  LEFT JOIN pg_temp.usersync_accounts AS k
    ON k.key = r.app || ':' || r.id AND k.record = a.theirs || ':' || btrim(r.domain) AND NOT %(afresh)s
 WHERE r.nth = 1 AND r.id IS NOT NULL

-- name: index_ids
CREATE INDEX ON pg_temp.usersync_ids (number) WHERE state IS NULL;
CREATE UNIQUE INDEX ON pg_temp.usersync_ids (key);
ANALYZE pg_temp.usersync_ids

-- name: without_a_key
INSERT INTO pg_temp.usersync_conflicts
SELECT NULL, 'no_key', CASE WHEN r.app IS NULL THEN 'it has no app' ELSE 'it has no id' END,
       convert_to(jsonb_build_object('app', r.app, 'id', r.id, 'domain', r.domain)::text, 'UTF8')
  FROM pg_temp.usersync_rows AS r
 WHERE r.app IS NULL OR r.id IS NULL AND r.app IN (SELECT a.ours FROM pg_temp.usersync_apps AS a)

-- name: left_out
SELECT count(*) FROM pg_temp.usersync_rows AS r WHERE r.app IS NOT NULL AND r.app NOT IN (SELECT a.ours FROM pg_temp.usersync_apps AS a)

-- name: read
SELECT count(*), count(*) FILTER (WHERE r.nth = 1) FROM pg_temp.usersync_rows AS r
 WHERE r.app IS NULL OR r.app IN (SELECT a.ours FROM pg_temp.usersync_apps AS a)

-- name: recall_refused
WITH refused AS (
    UPDATE pg_temp.usersync_ids AS i SET state = 'refused' FROM usersync.rejects AS r
     WHERE r.job = %(job)s AND r.step = %(step)s AND r.stream = %(stream)s AND r.key = i.key AND r.reason = %(refused)s
       AND r.hash = sha256(@document@)
    RETURNING i.key, r.detail
)
INSERT INTO pg_temp.usersync_odd SELECT key, %(refused)s, detail FROM refused

-- name: to_ask
SELECT number, key, theirs, id, domain FROM pg_temp.usersync_ids WHERE state IS NULL AND number > %(after)s ORDER BY number LIMIT %(batch)s

-- name: siblings
-- One id for each customer there, of those that we remember of a domain that has new ids: they are asked for again.
UPDATE pg_temp.usersync_ids SET state = NULL WHERE key IN (
    SELECT DISTINCT ON (i.domain, a.account) i.key
      FROM pg_temp.usersync_ids AS i JOIN pg_temp.usersync_accounts AS a ON a.key = i.key
     WHERE i.state = 'known'
       AND i.domain IN (SELECT n.domain FROM pg_temp.usersync_there AS t JOIN pg_temp.usersync_ids AS n ON n.key = t.key WHERE t.uuid IS NULL)
     ORDER BY i.domain, a.account, i.number)

-- name: known
-- Ids that Klanten had: to ask for when it is not clear whether it is out of order.
SELECT i.theirs, i.id FROM pg_temp.usersync_accounts AS a JOIN pg_temp.usersync_ids AS i ON i.key = a.key LIMIT 3

-- name: found
-- taken: their uuid is another customer of ours. same: it is the customer that is desired, by its domain or by our map.
CREATE TEMP TABLE usersync_found ON COMMIT DROP AS
SELECT t.key, t.ours, t.uuid, t.domain, t.normal, COALESCE(r.theirs <> r.ours, false) AS taken,
       NOT COALESCE(r.theirs <> r.ours, false) AND COALESCE(t.normal = t.ours OR r.theirs = r.ours OR r.named = r.ours, t.normal = t.ours, false)
       AS same
  FROM pg_temp.usersync_there AS t CROSS JOIN LATERAL (@roots@) AS r
 WHERE t.uuid IS NOT NULL;
CREATE INDEX ON pg_temp.usersync_found (ours);
INSERT INTO pg_temp.usersync_odd
SELECT f.key, CASE WHEN f.taken AND f.normal = f.ours THEN 'uuid_of_another' ELSE 'somebody_elses' END,
       CASE WHEN f.taken AND f.normal = f.ours
            THEN 'Klanten calls ' || f.ours || ' by ' || f.uuid || ', which is another customer here (usersync whois ' || f.uuid
                 || '); are they one? usersync customers merge'
            ELSE 'Klanten has it for ' || f.domain || ' (' || f.uuid || '), here it is ' || f.ours
                 || '. Is Klanten right? usersync mappings create -' || '-move says so; if not, change it at Klanten' END
  FROM pg_temp.usersync_found AS f WHERE NOT f.same

-- name: roots
SELECT usersync.root_of(t.uuid) AS theirs, usersync.root_of(@of_ours@) AS ours,
       CASE WHEN t.normal <> t.ours THEN usersync.root_of(@of_theirs@) END AS named

-- name: candidates
-- The customers there that are the desired one, by domain. Two of them may differ by case alone.
CREATE TEMP TABLE usersync_candidates ON COMMIT DROP AS
SELECT f.ours, min(f.uuid::text) AS uuid, count(DISTINCT f.uuid) AS number, string_agg(DISTINCT f.domain || ' (' || f.uuid || ')', ' and ') AS named
  FROM pg_temp.usersync_found AS f WHERE f.same AND f.normal = f.ours GROUP BY f.ours;
INSERT INTO pg_temp.usersync_odd
SELECT t.key, 'two_customers', 'Klanten has ' || c.named || ', which are one customer here; map the id there, or leave one of the two without ids'
  FROM pg_temp.usersync_there AS t JOIN pg_temp.usersync_candidates AS c ON c.ours = t.ours WHERE t.uuid IS NULL AND c.number > 1

-- name: conflicts
INSERT INTO pg_temp.usersync_conflicts
SELECT o.key, o.reason, o.detail, @document@ FROM pg_temp.usersync_odd AS o JOIN pg_temp.usersync_ids AS i ON i.key = o.key

-- name: planned
CREATE TEMP TABLE usersync_planned ON COMMIT DROP AS
SELECT i.number, i.key, NULL::text AS account, 'create' AS action,
       jsonb_build_object('app', i.theirs, 'id', i.id, 'domain', t.ours, 'customer', c.uuid, 'record', i.record,
                          'document', convert_from(@document@, 'UTF8')) AS wanted,
       jsonb_build_object('app', i.theirs, 'id', i.id, 'domain', t.ours) AS after
  FROM pg_temp.usersync_there AS t JOIN pg_temp.usersync_ids AS i ON i.key = t.key
  LEFT JOIN pg_temp.usersync_candidates AS c ON c.ours = t.ours
 WHERE t.uuid IS NULL AND COALESCE(c.number, 1) = 1

-- name: count
SELECT (SELECT count(*) FROM pg_temp.usersync_planned), (SELECT count(*) FROM pg_temp.usersync_conflicts),
       (SELECT count(*) FROM pg_temp.usersync_candidates WHERE number > 1)

-- name: changes
SELECT 'insert', key, after, '' FROM pg_temp.usersync_planned
UNION ALL
SELECT 'reject', COALESCE(id, 'sha256:' || encode(sha256(document), 'hex')), '{}', reason || ' (' || detail || ')'
  FROM pg_temp.usersync_conflicts
 ORDER BY 1, 2

-- name: remember
INSERT INTO usersync.accounts AS a (job, step, target, key, record, account)
SELECT %(job)s, %(step)s, %(target)s, i.key, i.record, f.uuid::text
  FROM pg_temp.usersync_found AS f JOIN pg_temp.usersync_ids AS i ON i.key = f.key WHERE f.same
ON CONFLICT (job, step, target, key) DO UPDATE SET record = excluded.record, account = excluded.account
 WHERE (a.record, a.account) IS DISTINCT FROM (excluded.record, excluded.account)

-- name: forget
DELETE FROM usersync.accounts AS a USING pg_temp.usersync_there AS t
 WHERE a.job = %(job)s AND a.step = %(step)s AND a.target = %(target)s AND a.key = t.key
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_found AS f WHERE f.key = t.key AND f.same)
