"""Into Postgres: staged, compared, merged; deletes past the guard; rejects; and what is known of records."""
