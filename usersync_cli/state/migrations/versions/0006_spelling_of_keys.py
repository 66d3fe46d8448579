"""How rows spell the keys that are remembered, and which documents of a listing were passed over for later ones.

Revision: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"

UP = (
    # row_key: only where the row spells the key otherwise than the source. sweep_id: the listing that was under way when the row
    # was last written; passed: hashes of documents, listed under the same key, that a later one of the listing replaced.
    'ALTER TABLE usersync.seen ADD COLUMN row_key text COLLATE "C", ADD COLUMN sweep_id bigint, ADD COLUMN passed bytea[]',
    "CREATE INDEX seen_row_key ON usersync.seen (stream_id, row_key) WHERE row_key IS NOT NULL",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE usersync.seen DROP COLUMN row_key, DROP COLUMN sweep_id, DROP COLUMN passed")
