"""Which mails to new people are still to be sent.

Revision: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"

UP = (
    # NULL: none was wanted. sending: written down before it is sent, so it may have been; nothing is sent twice.
    # dropped: a person said that it is not to be sent.
    "ALTER TABLE usersync.accounts ADD COLUMN mail text CHECK (mail IN ('owed', 'sending', 'sent', 'dropped'))",
    # Earlier versions did not send again what had failed.
    """
    UPDATE usersync.accounts AS a SET mail = CASE WHEN r.detail LIKE '%may have been sent%' THEN 'sending' ELSE 'owed' END
      FROM usersync.rejects AS r WHERE r.reason = 'mail_failed' AND r.job = a.job AND r.step = a.step AND r.key = a.key
    """,
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    op.execute("ALTER TABLE usersync.accounts DROP COLUMN mail")
