"""Klanten's HTTP API, for the source and the target of that name: its routes, its answers, and what they mean.

`api` makes the requests; `answers` is what comes back; `paths` says which ids fit into one. What is documented is that bodies are forms,
that a new mapping is a 201, and that creating a customer gives the one that there is. All else is inferred from a rebuilt service, so
each reading of it is taken.
"""
