"""Several rejects of one record, where each is another matter for a person.

Revision: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"

UP = (
    # '' where a record is set aside whole, as most are. Of an account each reason is a row of its own, so that one may be
    # dropped and the others wait.
    "ALTER TABLE usersync.rejects ADD COLUMN part text NOT NULL DEFAULT ''",
    "ALTER TABLE usersync.rejects DROP CONSTRAINT rejects_job_step_stream_key_key",
    "ALTER TABLE usersync.rejects ADD CONSTRAINT rejects_job_step_stream_key_part_key UNIQUE (job, step, stream, key, part)",
    """
    UPDATE usersync.rejects AS r SET part = reason WHERE key NOT LIKE 'sha256:%'
       AND EXISTS (SELECT FROM usersync.accounts AS a WHERE (a.job, a.step) = (r.job, r.step))
    """,
)
DOWN = (
    # One that waits stays rather than one that was dropped.
    """
    DELETE FROM usersync.rejects AS r USING usersync.rejects AS o
     WHERE (o.job, o.step, o.stream, o.key) = (r.job, r.step, r.stream, r.key)
       AND (o.status = 'dropped', o.id) < (r.status = 'dropped', r.id)
    """,
    "ALTER TABLE usersync.rejects DROP CONSTRAINT rejects_job_step_stream_key_part_key",
    "ALTER TABLE usersync.rejects DROP COLUMN part",
    "ALTER TABLE usersync.rejects ADD CONSTRAINT rejects_job_step_stream_key_key UNIQUE (job, step, stream, key)",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
