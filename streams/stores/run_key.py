"""The key of a run, shared by both stores."""

import msgspec


class RunKey(msgspec.Struct, frozen=True):
    """Names one run of one workflow in one namespace."""

    namespace_id: str
    workflow_id: str
    run_id: str
