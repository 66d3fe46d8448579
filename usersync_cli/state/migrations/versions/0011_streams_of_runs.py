"""How each stream of a run ended: a run of one stream says nothing about the others.

Revision: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # stream is empty for a step of tables. error is NULL where exit_status is 0.
    op.execute(
        """
        CREATE TABLE usersync.run_streams (
            run_id bigint NOT NULL REFERENCES usersync.runs ON DELETE CASCADE,
            step text NOT NULL,
            stream text NOT NULL,
            exit_status integer NOT NULL,
            error text,
            error_hint text,
            PRIMARY KEY (run_id, step, stream)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE usersync.run_streams")
