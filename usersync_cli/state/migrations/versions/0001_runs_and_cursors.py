"""The lease, the ledger of runs and steps, the cursors.

Revision: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

UP = (
    # One row a job for ever, updated at every checkpoint: room on its page keeps that a HOT update.
    """
    CREATE TABLE usersync.job_locks (
        job text PRIMARY KEY,
        owner text,
        epoch bigint NOT NULL DEFAULT 0,
        lease_until timestamptz,
        backend_pid integer,
        backend_xact_start timestamptz
    ) WITH (fillfactor = 10)
    """,
    """
    CREATE TABLE usersync.runs (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job text NOT NULL,
        status text NOT NULL CHECK (status IN ('running', 'ok', 'partial', 'failed', 'crashed', 'stopped')),
        exit_status integer,
        epoch bigint NOT NULL,
        owner text NOT NULL,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz,
        usersync_version text NOT NULL,
        "full" boolean NOT NULL DEFAULT false,
        summary text,
        error text,
        error_hint text
    )
    """,
    "CREATE INDEX runs_job_id ON usersync.runs (job, id DESC)",
    """
    CREATE TABLE usersync.run_steps (
        run_id bigint NOT NULL REFERENCES usersync.runs ON DELETE CASCADE,
        step text NOT NULL,
        status text NOT NULL CHECK (status IN ('running', 'ok', 'partial', 'failed', 'stopped')),
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz,
        read bigint NOT NULL DEFAULT 0,
        duplicates bigint NOT NULL DEFAULT 0,
        inserted bigint NOT NULL DEFAULT 0,
        updated bigint NOT NULL DEFAULT 0,
        unchanged bigint NOT NULL DEFAULT 0,
        stale bigint NOT NULL DEFAULT 0,
        rejected bigint NOT NULL DEFAULT 0,
        gone bigint NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0,
        normalised bigint NOT NULL DEFAULT 0,
        error text,
        PRIMARY KEY (run_id, step)
    )
    """,
    """
    CREATE TABLE usersync.cursors (
        job text NOT NULL,
        step text NOT NULL,
        stream text NOT NULL,
        value jsonb NOT NULL,
        version bigint NOT NULL,
        account text NOT NULL,
        rows bigint NOT NULL DEFAULT 0,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (job, step, stream)
    )
    """,
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for table in ("cursors", "run_steps", "runs", "job_locks"):
        op.execute(f"DROP TABLE usersync.{table}")
