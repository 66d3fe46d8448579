"""OAuth tokens, and authorisations on their way.

Revision: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"

UP = (
    # One row a source, which is one account: another one under the same name is refused. Room on its page, so that a new
    # token can be kept on a full disk too. Tokens are encrypted; `lease` is of the process that refreshes.
    """
    CREATE TABLE usersync.tokens (
        source text PRIMARY KEY,
        account text NOT NULL DEFAULT '',
        generation bigint NOT NULL DEFAULT 1,
        state text NOT NULL DEFAULT 'ok' CHECK (state IN ('ok', 'reauthorise')),
        access_token bytea NOT NULL,
        refresh_token bytea NOT NULL,
        key_id text NOT NULL,
        lifetime interval NOT NULL,
        expires_at timestamptz NOT NULL,
        refreshed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        lease text,
        lease_until timestamptz,
        attempts integer NOT NULL DEFAULT 0,
        last_error text NOT NULL DEFAULT '',
        failed_at timestamptz,
        not_before timestamptz
    ) WITH (fillfactor = 10)
    """,
    # What `oauth-url` made: the hash of a state that is good once, for ten minutes.
    """
    CREATE TABLE usersync.authorizations (
        state_hash bytea PRIMARY KEY,
        source text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz
    )
    """,
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for table in ("authorizations", "tokens"):
        op.execute(f"DROP TABLE usersync.{table}")
