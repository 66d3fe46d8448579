"""The target `keycloak`: the accounts of a realm.

What the engine asks for is here. `accounts`, `calls`, `realm` and `target` are also for the command `usersync keycloak`; the rest
is private.
"""

from usersync_cli.targets.keycloak.target import Settings, Target, opened, place

__all__ = ["Settings", "Target", "opened", "place"]
