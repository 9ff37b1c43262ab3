"""What can go wrong when a real part is to run on this machine."""


class PartMissing(RuntimeError):
    """A program that a part needs is not installed; the message says which, in one sentence."""


class PartFailed(RuntimeError):
    """A part did not start, or ended by itself; the message ends with the last lines of its log."""
