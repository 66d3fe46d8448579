"""Into PostgreSQL: staged, compared, merged.

`fit` says whether a step fits its table, `create` makes one, `table` loads it, with the SQL of `stage` and `merge`; `binding` puts
a person's SQL into ours, `writers` refuses two steps that would undo each other. `known` is what is remembered of a stream's
records, `spelling` how their keys are written. `proof` says whether a record has left its source, `guard` whether so many rows may
be removed, and `deletes` removes them. `rejects` says why a record can't be loaded and how many a run may have; `bisect` finds such
records.
"""
