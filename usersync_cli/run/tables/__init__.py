"""Steps of tables: extracts of SQL sources, compared and written in one transaction of the target.

`step` is the way of such a step, `reader` reads its sources; `rejects` finds the rows that can't be loaded, while the others are.
"""
