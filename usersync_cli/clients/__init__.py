"""What speaks to the outside: PostgreSQL servers in `postgres`, APIs over HTTP in `http`. Neither knows a vendor, a job or a step.

`klanten` is the one vendor here: it is both a source and a target, which may not import each other.
"""
