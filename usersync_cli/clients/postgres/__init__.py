"""PostgreSQL: how a connection is made, watched and ended, and what a server says.

`connections` makes them and puts a server's errors into our words, `sql` puts statements together, `catalog` describes tables,
`arrays` sends many values as one parameter, `embedded` runs the private server.
"""
