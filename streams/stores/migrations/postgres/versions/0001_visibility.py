"""Visibility: what lists show of runs, and how far it was written."""

from alembic import op

revision = "0001"
down_revision = None

# Strings compare by code point, as in SQLite and in filters.
_STATEMENTS = (
    """
    CREATE TABLE visibility (
        namespace_id text COLLATE "C" NOT NULL,
        workflow_id text COLLATE "C" NOT NULL,
        run_id text COLLATE "C" NOT NULL,
        close_order bigint NOT NULL,
        start_time_ns bigint NOT NULL,
        status bigint NOT NULL,
        namespace_division text COLLATE "C",
        execution_time_ns bigint NOT NULL,
        close_time_ns bigint,
        workflow_type text COLLATE "C" NOT NULL,
        task_queue text COLLATE "C" NOT NULL,
        history_length bigint,
        history_size_bytes bigint,
        execution_duration_ns bigint,
        state_transition_count bigint,
        parent_workflow_id text COLLATE "C",
        parent_run_id text COLLATE "C",
        root_workflow_id text COLLATE "C" NOT NULL,
        root_run_id text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        search_attributes jsonb,
        memo bytea NOT NULL,
        text_words jsonb,
        PRIMARY KEY (namespace_id, workflow_id, run_id)
    )
    """,
    """
    CREATE INDEX visibility_by_close ON visibility (
        namespace_id, close_order DESC, start_time_ns DESC, run_id, status, namespace_division
    )
    """,
    # Runs without search attributes cost these nothing.
    """
    CREATE INDEX visibility_by_attribute ON visibility USING gin (search_attributes jsonb_path_ops)
        WHERE search_attributes IS NOT NULL
    """,
    """
    CREATE INDEX visibility_by_word ON visibility USING gin (text_words jsonb_path_ops)
        WHERE text_words IS NOT NULL
    """,
    # What remains of a deleted run for a while, so that a row of it that comes late is not written.
    """
    CREATE TABLE visibility_deleted (
        namespace_id text COLLATE "C" NOT NULL,
        workflow_id text COLLATE "C" NOT NULL,
        run_id text COLLATE "C" NOT NULL,
        deleted_ms bigint NOT NULL,
        PRIMARY KEY (namespace_id, workflow_id, run_id)
    )
    """,
    # Locked by whoever writes rows of the namespace.
    """
    CREATE TABLE visibility_namespaces (
        namespace_id text COLLATE "C" PRIMARY KEY,
        last_close_order bigint NOT NULL
    )
    """,
    """
    CREATE TABLE positions (
        topic text NOT NULL,
        partition integer NOT NULL,
        log_offset bigint NOT NULL,
        now_ms bigint NOT NULL,
        position bytea NOT NULL,
        PRIMARY KEY (topic, partition)
    )
    """,
)


def upgrade() -> None:
    """Create what is there from the first version on."""
    for statement in _STATEMENTS:
        op.execute(statement)
