"""What usersync remembers in the target database, in the schema `usersync`.

`ledger` has runs, steps and cursors, `lease` lets one run at a time work on a job, `outbox` has the calls that are to be made to
targets outside PostgreSQL, `dispatch` makes them; `rejects` has the records that were set aside; `migrations` makes the tables.
"""
