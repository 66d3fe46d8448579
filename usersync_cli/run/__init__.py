"""A job, step by step: under one lease, in order, and what a failure stops.

`job` runs one, `context` is what each step is given and gives back, `checkpoint` is how what it does becomes true, or in a dry run
does not; `notify` reports how it went, and `identities` fills the map of who is whom. Steps are of three kinds, each a folder: `tables`,
`documents` and `outbound`.
"""
