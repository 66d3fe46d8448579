-- What is remembered of a stream's records, in usersync.seen, and of the complete listing under way, in usersync.sweeps. `rank` and
-- `is_known` are parts of other statements; {...} is filled in by known.py: column and type of the stream's versions above all.

-- name: open
SELECT id, name, keyed, records, run_id, known FROM usersync.sweeps WHERE stream_id = %s AND outcome = 'open' ORDER BY id DESC LIMIT 1

-- name: abandon
WITH old AS (
    UPDATE usersync.sweeps SET outcome = 'abandoned', finished_at = clock_timestamp()
     WHERE stream_id = %(stream)s AND outcome = 'open' RETURNING id
)
DELETE FROM usersync.sweep_keys WHERE sweep_id IN (SELECT id FROM old)

-- name: open_sweep
INSERT INTO usersync.sweeps (stream_id, run_id, outcome, account, name, keyed, known)
VALUES (%(stream)s, %(run)s, 'open', %(account)s, %(name)s, %(keyed)s, %(known)s) RETURNING id

-- name: sweep_keys
INSERT INTO usersync.sweep_keys (sweep_id, keys) VALUES (%(id)s, %(keys)s::text[])

-- name: rank
-- For `look_up`, where a page has a key twice.
row_number() OVER (PARTITION BY key ORDER BY version DESC NULLS LAST, ord DESC)

-- name: stale
-- For `look_up`: something newer is known. What was known up to the moment that a listing overrules does not count, however new its
-- version. At one version, the source's own time decides; what it reports as deleted does not come back at the very same moment.
(p.version < s.{version} AND (s.as_of <= %(overrules)s::timestamptz) IS NOT TRUE
 OR p.version = s.{version} AND (p.as_of < s.as_of OR p.as_of = s.as_of AND (s.status = 'removed' OR s.departure = 'told') IS TRUE)) IS TRUE

-- name: look_up
-- A record that is known, unchanged and in the target has no row here: an unchanged page gives none. LATERAL with LIMIT: each key
-- is looked up in the index. A table that grows page by page has no statistics, and joined as usual it is read whole each time.
SELECT p.ord - 1, p.rank > 1, {stale}, (s.listed = p.hash) IS TRUE, s.status, s.held, s.departure,
       COALESCE(s.missing, 0), r.status, %(listing)s AND (p.hash = ANY(s.passed)) IS TRUE AND (p.version > s.{version}) IS NOT TRUE, s.rest
  FROM (SELECT ord, key, hash, version, as_of, {rank} AS rank
          FROM unnest(%(keys)s::text[], %(hashes)s::bytea[], %(versions)s::{type}[], %(as_of)s::timestamptz[])
               WITH ORDINALITY AS g(key, hash, version, as_of, ord)) AS p
  LEFT JOIN LATERAL (SELECT * FROM usersync.seen AS s WHERE s.stream_id = %(stream_id)s AND s.key = p.key COLLATE "C" LIMIT 1) AS s ON true
  LEFT JOIN LATERAL (
       SELECT r.status FROM usersync.rejects AS r
        WHERE s.status = 'rejected' AND r.job = %(job)s AND r.step = %(step)s AND r.stream = %(stream)s AND r.key = s.key LIMIT 1
  ) AS r ON true
 WHERE (p.rank = 1 AND s.listed = p.hash AND s.held IS NOT NULL AND s.missing = 0 AND s.departure IS NULL
        AND NOT {stale}) IS NOT TRUE

-- name: note
-- What a listing had before of the same key, it has passed over when something else comes later.
INSERT INTO usersync.seen AS s (stream_id, key, listed, status, held, {version}, as_of, rest, parent, sweep_id)
SELECT %(stream)s, g.*, %(sweep)s
  FROM unnest(%(keys)s::text[], %(listed)s::bytea[], %(statuses)s::text[], %(held)s::bytea[], %(versions)s::{type}[],
              %(as_of)s::timestamptz[], %(rest)s::text[], %(parents)s::text[])
       AS g(key, listed, status, held, version, as_of, rest, parent) ORDER BY key COLLATE "C"
ON CONFLICT (stream_id, key) DO UPDATE
   SET listed = excluded.listed, status = excluded.status, held = excluded.held, missing = 0, departure = NULL,
       {version} = COALESCE(excluded.{version}, s.{version}), as_of = COALESCE(excluded.as_of, s.as_of),
       rest = COALESCE(excluded.rest, s.rest), parent = COALESCE(excluded.parent, s.parent), sweep_id = excluded.sweep_id,
       passed = CASE WHEN s.sweep_id = excluded.sweep_id AND s.listed <> excluded.listed
                     THEN (s.listed || array_remove(s.passed, excluded.listed))[:%(most)s]
                     ELSE array_remove(s.passed, excluded.listed) END

-- name: back
UPDATE usersync.seen SET missing = 0, departure = NULL WHERE stream_id = %s AND key = ANY(%s)

-- name: look_again
-- As if there were a row, of which nothing is known.
UPDATE usersync.seen SET listed = NULL, status = 'loaded', held = NULL, passed = NULL WHERE stream_id = %s AND key = ANY(%s)

-- name: respelt
SELECT EXISTS (SELECT FROM usersync.seen WHERE stream_id = %s AND row_key IS NOT NULL)

-- name: known_as
SELECT row_key, key FROM usersync.seen WHERE stream_id = %(stream)s AND row_key = ANY(%(rows)s)
UNION ALL SELECT key, key FROM usersync.seen WHERE stream_id = %(stream)s AND key = ANY(%(rows)s) AND row_key IS NULL

-- name: respell_replaced
DELETE FROM usersync.seen WHERE stream_id = %(id)s AND key = ANY(%(after)s)

-- name: respell
UPDATE usersync.seen AS s SET key = g.after, row_key = NULLIF(COALESCE(s.row_key, s.key), g.after)
  FROM unnest(%(before)s::text[], %(after)s::text[]) AS g(before, after)
 WHERE s.stream_id = %(id)s AND s.key = g.before COLLATE "C"

-- name: respell_replaced_rejects
DELETE FROM usersync.rejects WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND key = ANY(%(after)s)

-- name: respell_rejects
UPDATE usersync.rejects AS r SET key = g.after FROM unnest(%(before)s::text[], %(after)s::text[]) AS g(before, after)
 WHERE r.job = %(job)s AND r.step = %(step)s AND r.stream = %(stream)s AND r.key = g.before

-- name: spell
UPDATE usersync.seen AS s SET row_key = NULLIF(g.row, s.key) FROM unnest(%(keys)s::text[], %(rows)s::text[]) AS g(key, row)
 WHERE s.stream_id = %(stream)s AND s.key = g.key COLLATE "C" AND s.row_key IS DISTINCT FROM NULLIF(g.row, s.key)

-- name: told
UPDATE usersync.seen AS s
   SET missing = 0, departure = %(told)s, {version} = COALESCE(g.version, s.{version}), as_of = COALESCE(g.as_of, s.as_of)
  FROM unnest(%(keys)s::text[], %(versions)s::{type}[], %(as_of)s::timestamptz[]) AS g(key, version, as_of)
 WHERE s.stream_id = %(stream)s AND s.key = g.key COLLATE "C"

-- name: children
SELECT key FROM usersync.seen WHERE stream_id = %(stream)s AND parent = ANY(%(parents)s) AND status <> 'removed'

-- name: told_with
-- As of the moment at which the parent was deleted; now, where nobody knows that.
UPDATE usersync.seen AS s SET missing = 0, departure = 'told', as_of = COALESCE(g.as_of, now())
  FROM (SELECT key, max(as_of) AS as_of FROM unnest(%(parents)s::text[], %(as_of)s::timestamptz[]) AS g(key, as_of) GROUP BY key) AS g
 WHERE s.stream_id = %(stream)s AND s.parent = g.key AND s.status <> 'removed' AND s.departure IS DISTINCT FROM 'told'

-- name: bury
-- Reported again, nothing is written, but for a sign of life from time to time.
INSERT INTO usersync.seen AS s (stream_id, key, status, removed_at, {version}, as_of)
SELECT %(stream)s, g.key, 'removed', clock_timestamp(), g.version, g.as_of
  FROM unnest(%(keys)s::text[], %(versions)s::{type}[], %(as_of)s::timestamptz[]) AS g(key, version, as_of)
  LEFT JOIN usersync.seen AS b ON b.stream_id = %(stream)s AND b.key = g.key COLLATE "C"
 WHERE b.key IS NULL OR b.{version} < g.version OR b.removed_at < clock_timestamp() - %(long)s / 2
 ORDER BY g.key COLLATE "C"
ON CONFLICT (stream_id, key) DO UPDATE
   SET {version} = GREATEST(s.{version}, excluded.{version}), as_of = GREATEST(s.as_of, excluded.as_of), removed_at = excluded.removed_at

-- name: some
-- Some keys, of which nobody knows which: not the oldest, not the newest.
SELECT key FROM usersync.seen WHERE stream_id = %s AND status = 'loaded' AND departure IS NULL ORDER BY pg_catalog.md5(key) LIMIT %s

-- name: is_known
status <> 'removed' AND (status <> 'no_row' OR missing <> 0 OR departure IS NOT NULL)

-- name: known_and_held
-- Last, what a complete listing may be expected to have: it lacks records that went as the source reported them.
SELECT count(*) FILTER (WHERE {is_known}), count(held),
       count(*) FILTER (WHERE status <> 'removed') FROM usersync.seen WHERE stream_id = %s

-- name: lost
-- The remembered keys of rows that the table does not have. OFFSET 0 keeps it one join where its result is joined once more.
SELECT h.key
  FROM (SELECT key, COALESCE(row_key, key) AS row FROM usersync.seen WHERE stream_id = {stream} AND held IS NOT NULL) AS h
  FULL JOIN (SELECT {key} AS key FROM {table} AS t) AS t ON t.key = h.row WHERE t.key IS NULL OFFSET 0

-- name: note_drift
-- Added to what earlier pages of the listing, also those of other runs, had.
UPDATE usersync.sweeps SET drift = COALESCE((
       SELECT pg_catalog.jsonb_object_agg(n.key, n.number) FROM (
              SELECT d.key, pg_catalog.sum(d.value::bigint) AS number FROM (
                     SELECT key, value FROM pg_catalog.jsonb_each_text(COALESCE(drift, '{}'))
                     UNION ALL SELECT key, value FROM pg_catalog.jsonb_each_text(%(drift)s)) AS d GROUP BY d.key) AS n), '{}')
 WHERE id = %(id)s

-- name: drift
SELECT drift FROM usersync.sweeps WHERE id = %s

-- name: close_sweep
UPDATE usersync.sweeps SET outcome = %(outcome)s, candidates = %(candidates)s, removed = %(removed)s, run_id = %(run)s,
       finished_at = clock_timestamp() WHERE id = %(id)s

-- name: drop_sweep_keys
DELETE FROM usersync.sweep_keys WHERE sweep_id = %(id)s

-- name: count_known
UPDATE usersync.seen_streams SET adopted = adopted OR %(adopted)s,
       keys = (SELECT count(*) FROM usersync.seen WHERE stream_id = %(stream)s) WHERE id = %(stream)s
