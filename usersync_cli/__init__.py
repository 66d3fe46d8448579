"""usersync copies users and customers into a Postgres that you own; then it exits."""

__version__ = "0.1.0"
