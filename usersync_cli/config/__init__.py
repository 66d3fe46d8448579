"""The config file: text in, jobs, sources and targets out, and what is wrong with it.

`loader` reads a file and is what commands use, `jobs` is what a job is made of, `registry` finds the types of source and target,
`diagnostics` shows mistakes by line and column, `template` writes a newcomer's file, `reader` checks a part of one,
`values` checks what a job is made of, one by one.
"""
