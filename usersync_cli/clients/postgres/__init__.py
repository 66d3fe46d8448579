"""Connections to PostgreSQL, what its catalog says, values for its parameters, and the embedded server."""
