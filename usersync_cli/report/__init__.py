"""What only reads, and never writes a target.

`check` asks both ends whether a job will work, `verify` compares everything with its sources, `status` and `streams` say what the
ledger has, `export` gives a table as text, `users` the people of a copy.
"""
