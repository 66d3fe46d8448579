"""The target `keycloak`: the accounts of a realm.

What the engine asks for is here. `accounts`, `credentials`, `realm`, `settings` and `target` are also for the command
`usersync keycloak`; the rest is private.
"""

from usersync_cli.targets import TargetPort
from usersync_cli.targets.keycloak.settings import Settings, place
from usersync_cli.targets.keycloak.target import opened

__all__ = ["PORT"]

PORT = TargetPort(Settings, opened, place)
