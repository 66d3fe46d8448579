"""A million test users: two source databases shaped like those of the job `auroville`, their join, and a target.

Made of md5 sums: keys in random order, and the same rows each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.server import Server

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"

ACCOUNT_COLUMNS = "id uuid PRIMARY KEY, username text, email text, asyncto_id text"
USER_COLUMNS = f"{ACCOUNT_COLUMNS}, display_name text, community text, phone text, about text, profile_picture text"
ACCOUNT_NAMES = "id, username, email, asyncto_id"
USER_NAMES = f"{ACCOUNT_NAMES}, display_name, community, phone, about, profile_picture"
_STAMPS = "inserted_at timestamp with time zone NOT NULL DEFAULT now(), updated_at timestamp with time zone NOT NULL DEFAULT now()"

_ACCOUNTS = """
    SELECT md5('account' || i)::uuid AS id, 'test-user-' || i AS username, 'test.user.' || i || '@example.org' AS email,
           md5('asyncto' || i) AS asyncto_id
      FROM generate_series(1, {rows}) AS i
"""
# Four of five have one, of about 400 bytes; one in ten of those has no picture.
_PROFILES = """
    SELECT md5('profile' || i)::uuid AS id, 'Test User Number ' || i AS display_name, 'Test Community ' || i % 50 AS community,
           '+00 000 ' || i AS phone, left(repeat(md5('about' || i) || ' ', 8), 100 + i % 200) AS about, md5('asyncto' || i) AS asyncto_id,
           CASE WHEN i % 10 <> 1 THEN '/profiles/' || md5('picture' || i) || '.png' END AS profile_picture,
           md5('account' || i)::uuid AS auroville_account_id,
           timestamp(0) '2020-01-01' + i * interval '1 second' AS inserted_at,
           timestamp(0) '2024-01-01' + i * interval '7 seconds' AS updated_at
      FROM generate_series(1, {rows}) AS i WHERE i % 5 <> 0
"""


@dataclass(frozen=True)
class People:
    """The databases of so many users on a server."""

    server: Server
    rows: int

    @property
    def accounts(self) -> str:
        """Source database with the table `users`."""
        return f"bench_accounts_{self.rows}"

    @property
    def profiles(self) -> str:
        """Source database with the table `profiles`."""
        return f"bench_profiles_{self.rows}"

    @property
    def joined(self) -> str:
        """Source database with the table `joined`: what the job auroville makes of both."""
        return f"bench_joined_{self.rows}"

    @property
    def target(self) -> str:
        """Target database with empty tables `accounts` and `users`."""
        return f"bench_target_{self.rows}"

    def make(self) -> None:
        """All four databases, vacuumed and analysed."""
        key = "ALTER TABLE {} ADD PRIMARY KEY (id)"
        accounts, profiles = _ACCOUNTS.format(rows=self.rows), _PROFILES.format(rows=self.rows)
        done = "VACUUM (FREEZE, ANALYZE)"
        self.server.execute(self.accounts, f"CREATE TABLE users AS {accounts}", key.format("users"), done)
        self.server.execute(self.profiles, f"CREATE TABLE profiles AS {profiles}", key.format("profiles"), done)
        join = f"CREATE TABLE joined AS SELECT {USER_NAMES} FROM ({transform()}) AS v"
        self.server.execute(
            self.joined,
            f"CREATE TABLE accounts AS {accounts}",
            f"CREATE TABLE profiles AS {profiles}",
            "ANALYZE",
            join,
            "DROP TABLE accounts, profiles",
            key.format("joined"),
            done,
        )
        self.server.execute(self.target, *self._new("accounts"), *self._new("users"))

    def empty(self, table: str) -> None:
        """A new, empty table of the target, with its key."""
        self.server.execute(self.target, *self._new(table))

    def drop(self, table: str) -> None:
        """Away from the target with it."""
        self.server.execute(self.target, f"DROP TABLE IF EXISTS {table}")

    def settle(self, table: str) -> None:
        """What autovacuum would have done to the target's table by the time of the next run."""
        self.server.execute(self.target, f"VACUUM (ANALYZE) {table}")

    def profile_bytes(self) -> float:
        return float(self.server.execute(self.profiles, "SELECT avg(pg_column_size(p)) FROM profiles AS p")[0][0])

    def written(self, table: str) -> int:
        """Rows ever inserted, updated or deleted in the target's table."""
        counted = "SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname"
        return int(self.server.execute(self.target, f"{counted} = '{table}'")[0][0])

    @staticmethod
    def _new(table: str) -> list[str]:
        columns = ACCOUNT_COLUMNS if table == "accounts" else f"{USER_COLUMNS}, {_STAMPS}"
        return [f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} ({columns})"]


def transform() -> str:
    """The SELECT of the job auroville, from config.example.yaml."""
    return str(yaml.safe_load(EXAMPLE.read_text())["jobs"]["auroville"]["steps"][0]["transform"])
