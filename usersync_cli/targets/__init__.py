"""Targets outside PostgreSQL: a file or folder for each, found by its name. README.md says how to write one; `keycloak` is the one
that there is. Tables of PostgreSQL are the engine's own: `load/`."""
