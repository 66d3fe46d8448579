"""What usersync remembers in the target database, in the schema `usersync`.

`ledger` has runs, steps and cursors; `lease` lets one run at a time work on a job, and `owner` is that run's process;
`rejects` has the records that were set aside; `readings` has how complete listings ended, `approvals` the rows that wait for a
person before they go; `outbox` has the calls that are to be made to targets outside PostgreSQL,
`dispatch` makes them, and `creations` those of `usersync users create`; `migrations` makes the tables.
"""
