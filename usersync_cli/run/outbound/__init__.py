"""Steps whose target is outside PostgreSQL: what differs is found in SQL and written down, then the calls are made.

`step` is the way of such a step, `reader` reads its source, `deletes` decides which accounts are disabled.
"""
