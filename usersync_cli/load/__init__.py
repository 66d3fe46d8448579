"""Into PostgreSQL: staged, compared, merged.

* `table` loads a table; whether a step fits it, and how one is made, is in its folder.
* `stage` takes in what a source gave; `merge` says what goes where, compares, and writes.
* `binding` puts a person's SQL into ours, and `writers` refuses two steps that would undo each other.
* `known` is what is remembered of a stream's records, `spelling` how their keys are written.
* `deletes` has everything about rows whose records have left: candidates, proof, guard, removal.
* `rejects` says why a record can't be loaded and how many a run may have; `bisect` finds such records.
"""
