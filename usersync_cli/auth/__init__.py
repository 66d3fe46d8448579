"""OAuth: how a person authorizes usersync, and how tokens are kept.

`tokens` gives access tokens and refreshes each of them once, by one process; `oauth` speaks to a vendor's authorization server;
`authorizations` are under way while a person is away in a browser; `keys` encrypts; `rescue` keeps a token that its database could
not take.
"""
