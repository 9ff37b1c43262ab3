"""What can go wrong when a real part is to run on this machine."""


class PartError(RuntimeError):
    """A part cannot run; the message says why and what to do about it."""


class PartMissing(PartError):
    """A program that a part needs is not installed; the message says which, in one sentence."""


class PartFailed(PartError):
    """A part did not start, or ended by itself; the message ends with the last lines of its log."""
