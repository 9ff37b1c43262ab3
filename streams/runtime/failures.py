"""How an engine tells that it has stopped."""


class EngineFailedError(Exception):
    """The engine stopped: a commit failed, or a partition halted. The process has to end."""
