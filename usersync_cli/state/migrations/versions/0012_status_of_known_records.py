"""What the target has of a known record, and why its row is to go, in words.

Revision: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"

UP = (
    # Two columns, since each goes with each: of a record that was set aside, an older row may be there, and may be about to go.
    """
    ALTER TABLE usersync.seen
        ADD COLUMN status text NOT NULL DEFAULT 'loaded' CHECK (status IN ('loaded', 'rejected', 'removed', 'no_row')),
        ADD COLUMN departure text CHECK (departure IN ('told', 'kept', 'left_out'))
    """,
    # Before, `held` was \x00, \x01 or empty instead of a hash, and `missing` -1, -2 or -3 instead of a number of listings.
    r"""
    UPDATE usersync.seen
       SET status = CASE held WHEN '\x00' THEN 'rejected' WHEN '\x01' THEN 'removed' WHEN '' THEN 'no_row' ELSE 'loaded' END,
           held = CASE WHEN held NOT IN ('\x00', '\x01', '') THEN held END,
           departure = CASE missing WHEN -1 THEN 'told' WHEN -2 THEN 'kept' WHEN -3 THEN 'left_out' END,
           missing = CASE WHEN missing = -2 THEN 1 ELSE GREATEST(missing, 0) END
     WHERE held IN ('\x00', '\x01', '') OR missing < 0
    """,
    # held: only of a row of ours; NULL there: to be written again. missing: complete listings, one after the other, that lacked it.
    """
    ALTER TABLE usersync.seen ADD CONSTRAINT seen_held_check CHECK (held IS NULL OR status = 'loaded'),
        ADD CONSTRAINT seen_missing_check CHECK (missing >= 0)
    """,
)
DOWN = (
    "ALTER TABLE usersync.seen DROP CONSTRAINT seen_held_check, DROP CONSTRAINT seen_missing_check",
    r"""
    UPDATE usersync.seen
       SET held = CASE status WHEN 'rejected' THEN '\x00' WHEN 'removed' THEN '\x01' WHEN 'no_row' THEN '' ELSE held END,
           missing = CASE departure WHEN 'told' THEN -1 WHEN 'kept' THEN -2 WHEN 'left_out' THEN -3 ELSE missing END
     WHERE status <> 'loaded' OR departure IS NOT NULL
    """,
    "ALTER TABLE usersync.seen DROP COLUMN status, DROP COLUMN departure",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
