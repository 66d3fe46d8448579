"""Tokens that the API refused although they are new.

Revision: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"

UP = (
    "ALTER TABLE usersync.tokens DROP CONSTRAINT tokens_state_check",
    "ALTER TABLE usersync.tokens ADD CONSTRAINT tokens_state_check CHECK (state IN ('ok', 'refused', 'reauthorise'))",
)
DOWN = (
    "UPDATE usersync.tokens SET state = 'ok' WHERE state = 'refused'",
    "ALTER TABLE usersync.tokens DROP CONSTRAINT tokens_state_check",
    "ALTER TABLE usersync.tokens ADD CONSTRAINT tokens_state_check CHECK (state IN ('ok', 'reauthorise'))",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
