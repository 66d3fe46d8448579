"""Into PostgreSQL: staged, compared, merged.

* `fit` says whether a step fits its table, `create` makes one, and `table` loads it.
* `stage` takes in what a source gave; `merge` is what goes where, `compare` looks what differs, and `write` writes it.
* `binding` puts a person's SQL into ours, and `writers` refuses two steps that would undo each other.
* `known` is what is remembered of a stream's records, `spelling` how their keys are written.
* `candidates` are the records of a stream whose rows may go.
* `proof` says whether a record has left its source, `guard` whether so many rows may be removed, and `deletes` removes them.
* `rejects` says why a record can't be loaded and how many a run may have; `bisect` finds such records.
"""
