-- Halving, for every statement that is tried over ranges of records (`halving.loop`). It gives the records on which {attempt}
-- fails alone, from the first to the last.

-- name: loop
#variable_conflict use_column
DECLARE
  usersync_lo bigint;
  usersync_hi bigint;
  usersync_lows bigint[] := ARRAY[1];
  usersync_highs bigint[];
  usersync_depth int := 1;
  usersync_guess bigint;
  usersync_right int := 0;
  usersync_wrong int := 0;
  {declare}
BEGIN
  {start}
  WHILE usersync_depth > 0 LOOP
    usersync_lo := usersync_lows[usersync_depth];
    usersync_hi := usersync_highs[usersync_depth];
    usersync_depth := usersync_depth - 1;
    usersync_state := NULL;
    usersync_column := NULL;
    usersync_constraint := NULL;
    usersync_table := NULL;
    BEGIN
      {attempt}
      IF usersync_lo = usersync_hi AND usersync_lo = usersync_guess THEN
        usersync_wrong := usersync_wrong + 1;
      END IF;
      CONTINUE;
    EXCEPTION WHEN {bad} THEN
      GET STACKED DIAGNOSTICS usersync_state = RETURNED_SQLSTATE, usersync_column = COLUMN_NAME,
                              usersync_constraint = CONSTRAINT_NAME, usersync_table = TABLE_NAME;
    END;
    IF usersync_lo = usersync_hi THEN
      IF usersync_lo = usersync_guess THEN
        usersync_right := usersync_right + 1;
      END IF;
      {alone}
      usersync_ord := usersync_lo;
      RETURN NEXT;
      {found}
      CONTINUE;
    END IF;
    -- The guess is the record that was read last: what is before it, it alone, and what is behind it are tried by themselves. Where
    -- guesses are mostly wrong, the range is cut in the middle. Pieces are pushed from the last to the first, so that they are tried
    -- in their order.
    usersync_guess := (SELECT s.last_value FROM pg_temp.usersync_at AS s);
    IF usersync_wrong > usersync_right + 3 OR usersync_guess NOT BETWEEN usersync_lo AND usersync_hi THEN
      usersync_guess := (usersync_lo + usersync_hi) / 2;
      usersync_lows[usersync_depth + 1] := usersync_guess + 1;
      usersync_highs[usersync_depth + 1] := usersync_hi;
      usersync_lows[usersync_depth + 2] := usersync_lo;
      usersync_highs[usersync_depth + 2] := usersync_guess;
      usersync_depth := usersync_depth + 2;
      usersync_guess := NULL;
      CONTINUE;
    END IF;
    IF usersync_guess < usersync_hi THEN
      usersync_depth := usersync_depth + 1;
      usersync_lows[usersync_depth] := usersync_guess + 1;
      usersync_highs[usersync_depth] := usersync_hi;
    END IF;
    usersync_depth := usersync_depth + 1;
    usersync_lows[usersync_depth] := usersync_guess;
    usersync_highs[usersync_depth] := usersync_guess;
    IF usersync_guess > usersync_lo THEN
      usersync_depth := usersync_depth + 1;
      usersync_lows[usersync_depth] := usersync_lo;
      usersync_highs[usersync_depth] := usersync_guess - 1;
    END IF;
  END LOOP;
END
