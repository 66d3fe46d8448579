"""What is to be done outside Postgres, and the accounts that are ours there.

Revision: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

UP = (
    # Who of a step's people has which account, and what we gave it. Written before the calls that make it so: what we may have
    # given counts as given.
    """
    CREATE TABLE usersync.accounts (
        job text NOT NULL,
        step text NOT NULL,
        target text NOT NULL,
        key text NOT NULL,
        record text,
        account text NOT NULL,
        roles text[] NOT NULL DEFAULT '{}',
        groups text[] NOT NULL DEFAULT '{}',
        disabled boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (job, step, target, key)
    )
    """,
    # The calls that a run has decided on, one row a person: committed before the first of them, with the outcome of each
    # after it. `wanted` holds people's data.
    """
    CREATE TABLE usersync.intents (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run_id bigint NOT NULL,
        job text NOT NULL,
        step text NOT NULL,
        target text NOT NULL,
        key text NOT NULL,
        action text NOT NULL CHECK (action IN ('create', 'finish', 'adopt', 'update', 'disable')),
        account text,
        wanted jsonb,
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'refused', 'left')),
        done text[] NOT NULL DEFAULT '{}',
        error text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at timestamptz
    )
    """,
    "CREATE INDEX intents_open ON usersync.intents (job, step, key) WHERE state = 'open'",
    "CREATE INDEX intents_run ON usersync.intents (run_id)",
    "CREATE INDEX intents_ended ON usersync.intents (job, ended_at) WHERE wanted IS NOT NULL",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for table in ("intents", "accounts"):
        op.execute(f"DROP TABLE usersync.{table}")
