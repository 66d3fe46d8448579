"""What the guard remembers: the step that it last let pass, how many rows went lately, and whose end the source reported.

Revision: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"

UP = (
    "ALTER TABLE usersync.seen_streams ADD COLUMN accepted text",
    # Of records that are gone: since when. It says how long their versions are kept.
    "ALTER TABLE usersync.seen ADD COLUMN removed_at timestamptz",
    """
    CREATE TABLE usersync.removals (
        stream_id integer NOT NULL REFERENCES usersync.seen_streams ON DELETE CASCADE,
        run_id bigint NOT NULL,
        rows bigint NOT NULL,
        known bigint NOT NULL,
        removed_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX removals_stream_id ON usersync.removals (stream_id, removed_at)",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE usersync.removals")
    op.execute("ALTER TABLE usersync.seen DROP COLUMN removed_at")
    op.execute("ALTER TABLE usersync.seen_streams DROP COLUMN accepted")
