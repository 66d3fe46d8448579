"""Into PostgreSQL: staged, compared, merged.

`table` loads a table, with the SQL of `stage` and `merge`; `binding` puts a person's SQL into ours, `writers` refuses two steps
that would undo each other. `known` is what is remembered of a stream's records, `spelling` how their keys are written, `guard`
decides whether rows may be removed. `rejects` are records that were set aside; `bisect` and `constraints` find them.
"""
