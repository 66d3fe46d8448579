"""The finder of bad records: of many records that a statement can't take, the server only says that one is bad.

Tables use three ways in this order, each where the one before finds nobody. For documents, a page is written first; where the table
refuses it, its constraints are looked at before records are cast one by one:

1. **Casting.** The transform, and the casts to the types of the table, are tried record by record inside the server: `extracts` of
   a step of tables, a `page` of documents.
2. **Constraints.** Those of the table are looked at with a query, which writes nothing: `constraints`. A preview finds no more.
3. **Halving.** What neither explains is written in halves, each behind a savepoint, until records fail alone: inside the server for
   tables, whose records are all there (`writing`), statement by statement for a page (`attempts`).

`finder` goes through them for a step of tables, and keeps the bad records in a temp table, `found`; `attempts` does for a page. A way
that finds records names at least one, with reason and detail, never a value; then all others are tried again. Only errors about data
count (`rejects.is_about_data`): any other is raised.
"""
