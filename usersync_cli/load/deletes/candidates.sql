-- Rows of a stream that may go: pg_temp.usersync_candidates. `lacking` and `still` are parts of other statements; {...} is filled in
-- by candidates.py.

-- name: lacking
-- Known records that a sweep and this page of it lack. FULL JOIN, because what was never analysed may look small: for NOT EXISTS the
-- planner then compares each key with each other.
SELECT s.key, s.missing
  FROM (SELECT key, missing FROM usersync.seen
         WHERE stream_id = %(stream_id)s AND (departure IS NULL OR departure = 'kept') AND key > %(after)s
           AND status IN ('loaded', 'rejected')) AS s
  FULL JOIN (SELECT unnest(keys) COLLATE "C" AS key FROM usersync.sweep_keys WHERE sweep_id = %(sweep)s
             UNION ALL SELECT key COLLATE "C" FROM unnest(%(met)s::text[]) AS m(key)) AS present ON present.key = s.key
 WHERE present.key IS NULL

-- name: lacking_rows
-- By the keys of their rows, as lists for approval have them.
SELECT COALESCE(r.row_key, l.key) FROM ({lacking}) AS l
  JOIN usersync.seen AS r ON r.stream_id = %(stream_id)s AND r.key = l.key

-- name: lacking_page
SELECT key, missing FROM ({lacking}) AS l ORDER BY key LIMIT %(most)s

-- name: count_lacking
SELECT count(*) FROM ({lacking}) AS l

-- name: collect_lacking
INSERT INTO pg_temp.usersync_candidates (key, told) SELECT key, false FROM ({lacking}) AS l ON CONFLICT DO NOTHING

-- name: create
-- free: the guard has no say. row: how the row spells the key, where that is otherwise. at: when the source says that it was deleted.
CREATE TEMP TABLE usersync_candidates (
    key text COLLATE "C" PRIMARY KEY, told boolean, free boolean DEFAULT false, row text COLLATE "C", at timestamptz
) ON COMMIT DROP

-- name: collect
INSERT INTO pg_temp.usersync_candidates (key, told) SELECT DISTINCT key, false FROM unnest(%s::text[]) AS g(key) ON CONFLICT DO NOTHING

-- name: listed
SELECT k.key FROM usersync.approval_keys k JOIN usersync.approvals a ON a.id = k.approval_id
 WHERE a.run_id = %(approved)s AND a.job = %(job)s AND a.step = %(step)s AND a.stream = %(stream)s AND a.status = 'waiting'

-- name: waits
SELECT EXISTS (SELECT FROM usersync.seen WHERE stream_id = %(id)s AND departure IN ('told', 'left_out'))
    OR EXISTS (SELECT FROM usersync.approvals WHERE job = %(job)s AND step = %(step)s AND stream = %(stream)s AND status = 'waiting')

-- name: collect_told_now
-- Records of which this reading was told, where it notes nothing down.
INSERT INTO pg_temp.usersync_candidates (key, told, free)
SELECT key, true, %(free)s AND how = 'told' FROM unnest(%(keys)s::text[], %(how)s::text[]) AS g(key, how)

-- name: collect_told
-- Records of which this reading or an earlier one was told, and has noted it.
INSERT INTO pg_temp.usersync_candidates (key, told, free, at)
SELECT key, true, %(free)s AND departure = 'told', CASE departure WHEN 'told' THEN as_of END FROM usersync.seen
 WHERE stream_id = %(id)s AND departure IN ('told', 'left_out') ON CONFLICT DO NOTHING

-- name: collect_kept
-- Those of the lists that wait: rows that the guard kept, and those of a table that was taken over, which were never seen at the
-- source. What is approved now has been looked up in a complete listing already.
INSERT INTO pg_temp.usersync_candidates (key, told)
SELECT COALESCE(s.key, k.key), false FROM usersync.approvals AS a JOIN usersync.approval_keys AS k ON k.approval_id = a.id
  LEFT JOIN usersync.seen AS s ON s.stream_id = %(id)s AND {row} = k.key
 WHERE a.job = %(job)s AND a.step = %(step)s AND a.stream = %(stream)s AND a.status = 'waiting' AND a.target = %(target)s
   AND (s.key IS NULL OR s.departure = 'kept')
   AND NOT (%(complete)s AND EXISTS (SELECT FROM usersync.approval_keys AS k2 JOIN usersync.approvals AS a2 ON a2.id = k2.approval_id
            WHERE a2.run_id = %(approved)s AND a2.job = a.job AND a2.step = a.step AND a2.stream = a.stream AND k2.key = k.key))
ON CONFLICT DO NOTHING

-- name: rows
UPDATE pg_temp.usersync_candidates AS c SET row = s.row_key FROM usersync.seen AS s
 WHERE s.stream_id = %s AND s.key = c.key AND s.row_key IS NOT NULL

-- name: told_rows
-- Records are looked up by the key of the table, each of them in its index. g.at: see `Merge.marks`.
SELECT {row}, t.{mark} IS NULL, s.as_of::text
  FROM ({typed}) AS k
  JOIN usersync.seen AS s ON s.stream_id = {stream} AND s.key = k.usersync_key COLLATE "C"
 CROSS JOIN LATERAL (SELECT s.as_of AS at) AS g
 CROSS JOIN LATERAL (SELECT * FROM {table} AS t WHERE {same} LIMIT 1) AS t
 WHERE CASE WHEN t.{mark} IS NULL THEN {free} AND s.departure = 'told' ELSE g.at IS NOT NULL AND t.{mark} <> {at} END

-- name: let_go
CREATE TEMP TABLE usersync_gone ON COMMIT DROP AS
SELECT k.usersync_key AS key, true AS free, a.at::timestamptz AS at, {own}
  FROM ({typed}) AS k JOIN unnest(%s::text[], %s::text[]) AS a(key, at) ON a.key = k.usersync_key

-- name: went
UPDATE usersync.seen SET missing = 0, departure = NULL, listed = NULL, status = 'removed', held = NULL, rest = NULL, removed_at = clock_timestamp()
 WHERE stream_id = %s AND key = ANY(%s) AND departure = 'told'

-- name: missed
UPDATE usersync.seen SET missing = 1 WHERE stream_id = %s AND key = ANY(%s)

-- name: without_key
SELECT EXISTS (SELECT FROM usersync.sweep_keys, unnest(keys) AS key WHERE sweep_id = %s AND key ~ '^sha256:[0-9a-f]{64}$')

-- name: still
-- Its row stays.
EXISTS (SELECT FROM pg_temp.usersync_gone AS g WHERE g.key = COALESCE(c.row, c.key) AND NOT {goes})

-- name: gone
SELECT c.key, c.at::text FROM pg_temp.usersync_candidates AS c LEFT JOIN usersync.seen AS s ON s.stream_id = %s AND s.key = c.key
 WHERE NOT {still} AND s.departure IS DISTINCT FROM 'left_out'

-- name: purge
DELETE FROM usersync.seen AS s WHERE s.stream_id = %(stream)s AND s.status = 'removed' AND s.missing = 0 AND s.departure IS NULL
   AND (s.removed_at > clock_timestamp() - %(long)s) IS NOT TRUE
   AND NOT EXISTS (SELECT FROM pg_temp.usersync_candidates AS c WHERE c.key = s.key)

-- name: forget_lacking
DELETE FROM usersync.seen AS s USING pg_temp.usersync_candidates AS c
 WHERE s.stream_id = %(stream)s AND s.key = c.key AND NOT c.told AND NOT {still}

-- name: forget_told
UPDATE usersync.seen AS s
   SET missing = 0, departure = NULL, listed = CASE WHEN s.status = 'no_row' THEN s.listed END,
       status = CASE WHEN s.status = 'no_row' THEN s.status ELSE 'removed' END, held = NULL, removed_at = clock_timestamp(),
       rest = CASE WHEN s.status = 'no_row' THEN s.rest END
  FROM pg_temp.usersync_candidates AS c
 WHERE s.stream_id = %(stream)s AND s.key = c.key AND c.told AND NOT {still}

-- name: keep
UPDATE usersync.seen AS s SET departure = 'kept', missing = GREATEST(s.missing, 1) FROM pg_temp.usersync_candidates AS c
 WHERE s.stream_id = %(stream)s AND s.key = c.key AND NOT c.told AND s.departure IS DISTINCT FROM 'kept' AND {still}
