"""OAuth tokens: how a person authorizes usersync, how a token is refreshed once and by one process, and how it is encrypted."""
