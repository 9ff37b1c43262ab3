"""What keeps the server from starting."""


class StartupError(Exception):
    """A reason not to start, told to the user in one sentence."""
