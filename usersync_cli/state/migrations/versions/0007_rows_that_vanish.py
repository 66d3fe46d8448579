"""What a step did not compare, and how many rows of a table are not ours: rows that vanish are noticed.

Revision: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE usersync.run_steps ADD COLUMN not_compared bigint NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE usersync.seen_streams ADD COLUMN others bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    op.execute("ALTER TABLE usersync.run_steps DROP COLUMN not_compared")
    op.execute("ALTER TABLE usersync.seen_streams DROP COLUMN others")
