"""OAuth: how a person authorizes usersync, and how tokens are kept.

`tokens` gives access tokens, and has each refreshed once, by one process; `store` is the table that they are in; `oauth` speaks to a
vendor's authorization server, and `outcomes` are the ways in which that ends;
`authorizations` are under way while a person is away in a browser; `keys` encrypts; `rescue` keeps a token that its database could
not take.
"""
