-- The function that describes bad records of an extract (`extracts`): the column that each fails on, and its key.

-- name: describe
#variable_conflict use_column
DECLARE
  usersync_lo bigint; usersync_hi bigint; usersync_last int := 1; usersync_try int; usersync_found text;
BEGIN
  FOREACH usersync_lo IN ARRAY usersync_ords LOOP
    usersync_hi := usersync_lo;
    usersync_found := NULL;
    FOR usersync_i IN -1 .. {last} LOOP
      -- first whether it is in no column at all, then the one that it was the last time
      usersync_try := CASE usersync_i WHEN -1 THEN 0 WHEN 0 THEN usersync_last ELSE usersync_i END;
      CONTINUE WHEN usersync_i = usersync_last;
      BEGIN
        PERFORM pg_temp.usersync_column(usersync_lo, usersync_hi, usersync_try);
      EXCEPTION WHEN {bad} THEN
        IF usersync_try > 0 THEN
          usersync_last := usersync_try;
          usersync_found := ({names})[usersync_try];
        END IF;
        EXIT;
      END;
    END LOOP;
    BEGIN
      CONTINUE WHEN pg_temp.usersync_file(usersync_lo, usersync_hi, usersync_found);
    EXCEPTION WHEN {bad} THEN NULL;
    END;
    INSERT INTO {rejects} (usersync_ord, usersync_column) VALUES (usersync_lo, usersync_found);
  END LOOP;
END
