"""What is remembered of records whose changes come from a log: as of when, and the fields that only listings have; and drift.

Revision: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"

UP = (
    # as_of: when the source said what is known; NULL where it does not say. rest: an object of the fields that changes may lack, of the
    # last whole document, as text, since its hash has to stay the same.
    # parent: the key of the record of another stream that it belongs to.
    "ALTER TABLE usersync.seen ADD COLUMN as_of timestamptz, ADD COLUMN rest text, ADD COLUMN parent text",
    # drift: number of rows by what differed from the listing, such as {"first_name": 2}; NULL where nothing was compared.
    "ALTER TABLE usersync.sweeps ADD COLUMN drift jsonb",
)
DOWN = (
    "ALTER TABLE usersync.sweeps DROP COLUMN drift",
    "ALTER TABLE usersync.seen DROP COLUMN as_of, DROP COLUMN rest, DROP COLUMN parent",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
