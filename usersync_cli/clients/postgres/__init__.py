"""PostgreSQL: how a connection is made, watched and ended, and what a server says.

`connections` makes them, `transactions` sets what holds in each, `errors` puts a server's errors into our words (`sqlstates` is the
table behind that). `sql` puts statements together, `queries` parses a person's SQL, `catalog` describes tables. `arrays` sends many
values as one parameter, `rows` writes a key of several parts. `parameters` and `settings` are what libpq and the server are given;
`embedded` runs the private server.
"""
