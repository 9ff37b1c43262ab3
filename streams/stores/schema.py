"""The SQLite tables of both stores.

Every index is paid for on the write path, so there are two per store at most: the key, and the order in
which the store is read. Columns that may be long come last, so that a scan does not page them in.
"""

import sqlite3

OPEN_ORDER = 2**63 - 1
"""`visibility.close_order` of a run that is open: it sorts before every closed one."""

_STATEMENTS = (
    # Large rows stay in insertion order (a table clustered by a random run id would spill each blob onto
    # an overflow page of its own); the index keeps them in reading order.
    """
    CREATE TABLE IF NOT EXISTS history (
        run_id TEXT NOT NULL,
        first_event_id INTEGER NOT NULL,
        last_event_id INTEGER NOT NULL,
        events BLOB NOT NULL,
        UNIQUE (run_id, first_event_id)
    ) STRICT
    """,
    """
    CREATE TABLE IF NOT EXISTS visibility (
        namespace_id TEXT NOT NULL,
        workflow_id TEXT NOT NULL,
        run_id TEXT NOT NULL,
        close_order INTEGER NOT NULL,
        start_time_ns INTEGER NOT NULL,
        status INTEGER NOT NULL,
        namespace_division TEXT,
        execution_time_ns INTEGER NOT NULL,
        close_time_ns INTEGER,
        workflow_type TEXT NOT NULL,
        task_queue TEXT NOT NULL,
        history_length INTEGER,
        history_size_bytes INTEGER,
        execution_duration_ns INTEGER,
        state_transition_count INTEGER,
        parent_workflow_id TEXT,
        parent_run_id TEXT,
        root_workflow_id TEXT NOT NULL,
        root_run_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        search_attributes TEXT,
        memo BLOB NOT NULL,
        UNIQUE (namespace_id, workflow_id, run_id)
    ) STRICT
    """,
    # The last two columns let the commonest filters, and counts by status, be answered from the index.
    """
    CREATE INDEX IF NOT EXISTS visibility_by_close ON visibility (
        namespace_id, close_order DESC, start_time_ns DESC, run_id, status, namespace_division
    )
    """,
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables and indexes of both stores where they are missing; never commits."""
    for statement in _STATEMENTS:
        connection.execute(statement)
