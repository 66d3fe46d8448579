"""The target `klanten`: the ids of customers in a running Klanten, which are made there and never changed. What the engine asks for is
here; the rest is private.
"""

from usersync_cli.targets import TargetPort
from usersync_cli.targets.klanten.settings import Settings, place
from usersync_cli.targets.klanten.target import opened

__all__ = ["PORT"]

PORT = TargetPort(Settings, opened, place, disables=False)
