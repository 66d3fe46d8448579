-- The functions that try a page of documents, record by record (`page`).

-- What runs the transform, with its search path: over the records that it is given, all of it (0), the cast to one column (1 and
-- more), only the reading of the documents (-2), or a look at the keys (-1).
-- name: try
#variable_conflict use_column
BEGIN
  IF usersync_which OPERATOR(pg_catalog.=) 0 THEN
    PERFORM pg_catalog.count(ROW(w.*)) FROM ({tried}) AS w;
  END IF;
  IF usersync_which OPERATOR(pg_catalog.=) -2 THEN
    PERFORM pg_catalog.count(g.data::pg_catalog.jsonb) FROM unnest(usersync_data) AS g(data);
  END IF;
  IF usersync_which OPERATOR(pg_catalog.=) -1 THEN
    SELECT pg_catalog.count(*) FILTER (WHERE {without}),
           pg_catalog.count(*) FILTER (
               WHERE ROW(w.*) IS NULL
                  OR CASE WHEN {key} OPERATOR(pg_catalog.=) usersync_keys[1] THEN false ELSE ({same}) IS NOT TRUE END)
      INTO usersync_without, usersync_odd FROM (SELECT w.* FROM ({tried}) AS w OFFSET 0) AS w;
  END IF;
  {columns}
END

-- Some records; of one alone, with usersync_each, whether its rows have its key, too.
-- name: attempt
IF usersync_lo < usersync_hi OR NOT usersync_each THEN
  PERFORM pg_temp.usersync_try(usersync_keys[usersync_lo:usersync_hi], usersync_data[usersync_lo:usersync_hi],
                               usersync_versions[usersync_lo:usersync_hi], usersync_lo, 0{parts});
ELSE
  SELECT t.usersync_without, t.usersync_odd INTO usersync_without, usersync_odd
    FROM pg_temp.usersync_try(usersync_keys[usersync_lo:usersync_hi], usersync_data[usersync_lo:usersync_hi],
                              usersync_versions[usersync_lo:usersync_hi], usersync_lo, -1{parts}) AS t;
  usersync_state := CASE WHEN usersync_without > 0 THEN {no_key} WHEN usersync_odd > 0 THEN {key_differs} END;
  IF usersync_state IS NOT NULL THEN
    usersync_ord := usersync_lo;
    RETURN NEXT;
  END IF;
END IF;

-- Which column it is that a record fails on: '' for the document itself, which every column reads; first the one of the last time.
-- name: alone
usersync_column := NULLIF(usersync_column, '');
BEGIN
  PERFORM pg_temp.usersync_try(usersync_keys[usersync_lo:usersync_hi], usersync_data[usersync_lo:usersync_hi],
                               usersync_versions[usersync_lo:usersync_hi], usersync_lo, -2{parts});
EXCEPTION WHEN {bad} THEN
  usersync_column := '';
END;
FOR usersync_i IN 0 .. {last} LOOP
  EXIT WHEN usersync_column = '';
  usersync_try := CASE usersync_i WHEN 0 THEN usersync_last ELSE usersync_i END;
  BEGIN
    PERFORM pg_temp.usersync_try(usersync_keys[usersync_lo:usersync_hi], usersync_data[usersync_lo:usersync_hi],
                                 usersync_versions[usersync_lo:usersync_hi], usersync_lo, usersync_try{parts});
  EXCEPTION WHEN {bad} THEN
    usersync_last := usersync_try;
    usersync_column := ({names})[usersync_last];
    EXIT;
  END;
END LOOP;
