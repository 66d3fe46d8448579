"""What was seen at the sources, sweeps, rejects, and lists that wait for approval.

Revision: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"

UP = (
    # What the keys in `seen` belong to: a step (stream '' for a SQL step), or one stream of it.
    """
    CREATE TABLE usersync.seen_streams (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job text NOT NULL,
        step text NOT NULL,
        stream text NOT NULL DEFAULT '',
        target text NOT NULL,
        fingerprint text NOT NULL,
        keys bigint NOT NULL DEFAULT 0,
        checksum numeric NOT NULL DEFAULT 0,
        adopted boolean NOT NULL DEFAULT false,
        UNIQUE (job, step, stream)
    )
    """,
    """
    CREATE TABLE usersync.seen (
        stream_id integer NOT NULL REFERENCES usersync.seen_streams ON DELETE CASCADE,
        key text COLLATE "C" NOT NULL,
        listed bytea,
        held bytea,
        version_at timestamptz,
        version_number numeric,
        missing smallint NOT NULL DEFAULT 0,
        PRIMARY KEY (stream_id, key)
    )
    """,
    """
    CREATE TABLE usersync.sweeps (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        stream_id integer NOT NULL REFERENCES usersync.seen_streams ON DELETE CASCADE,
        run_id bigint NOT NULL,
        outcome text NOT NULL CHECK (outcome IN ('open', 'ok', 'refused', 'approved', 'abandoned')),
        account text NOT NULL,
        name text NOT NULL DEFAULT '',
        keyed boolean NOT NULL DEFAULT true,
        known bigint NOT NULL DEFAULT 0,
        records bigint NOT NULL DEFAULT 0,
        candidates bigint NOT NULL DEFAULT 0,
        removed bigint NOT NULL DEFAULT 0,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz
    )
    """,
    "CREATE INDEX sweeps_stream_id ON usersync.sweeps (stream_id, id DESC)",
    # A row for each page of a sweep: one for each key took as long as all the rest of an unchanged listing.
    """
    CREATE TABLE usersync.sweep_keys (
        sweep_id bigint NOT NULL REFERENCES usersync.sweeps ON DELETE CASCADE,
        keys text[] NOT NULL
    )
    """,
    "CREATE INDEX sweep_keys_sweep_id ON usersync.sweep_keys (sweep_id)",
    # One list of keys for each step and stream of a run that the guard stopped; it is approved whole, once.
    """
    CREATE TABLE usersync.approvals (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run_id bigint NOT NULL,
        job text NOT NULL,
        step text NOT NULL,
        stream text NOT NULL DEFAULT '',
        status text NOT NULL CHECK (status IN ('waiting', 'used', 'withdrawn')),
        target text NOT NULL,
        reason text NOT NULL,
        keys bigint NOT NULL,
        checksum numeric NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at timestamptz,
        ended_by bigint,
        removed bigint,
        UNIQUE (run_id, step, stream)
    )
    """,
    """
    CREATE TABLE usersync.approval_keys (
        approval_id bigint NOT NULL REFERENCES usersync.approvals ON DELETE CASCADE,
        key text COLLATE "C" NOT NULL,
        PRIMARY KEY (approval_id, key)
    )
    """,
    # `key` is the record's own, or sha256:<hash of the document> where it has none. One row for each record.
    """
    CREATE TABLE usersync.rejects (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job text NOT NULL,
        step text NOT NULL,
        stream text NOT NULL DEFAULT '',
        key text NOT NULL,
        status text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'dropped')),
        reason text NOT NULL,
        detail text NOT NULL DEFAULT '',
        document bytea,
        hash bytea NOT NULL,
        version text,
        run_id bigint NOT NULL,
        first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        UNIQUE (job, step, stream, key)
    )
    """,
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for table in ("rejects", "approval_keys", "approvals", "sweep_keys", "sweeps", "seen", "seen_streams"):
        op.execute(f"DROP TABLE usersync.{table}")
