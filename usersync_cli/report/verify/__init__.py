"""`usersync verify`: does a table hold what its sources say? Everything is read, nothing is written, every difference is found.

The merge's comparison, cursors and what is known of records play no part: a mistake of theirs must not hide itself. What the sources
have is staged whole (`tables`, `outbound`, `documents` by the kind of step, one stream in `listing`), `shape` has the SQL that reads
both sides as text, and `compare` matches them. The transaction is read-only but for its temp tables.

`steps` compares the steps of a job; `report` has what was found.
"""
