"""The target `keycloak`: a realm's accounts. What the engine asks for is named here; the rest is private to the folder, and to
the command `usersync keycloak`."""

from usersync_cli.targets.keycloak.target import Settings, Target, opened, place

__all__ = ["Settings", "Target", "opened", "place"]
