"""What usersync remembers in the target database, in the schema `usersync`.

`ledger` has runs, steps and cursors; `lease` lets one run at a time work on a job, and `owner` is that run's process;
`rejects` has the records that were set aside; `outbox` has the calls that are to be made to targets outside PostgreSQL,
`dispatch` makes them; `migrations` makes the tables.
"""
