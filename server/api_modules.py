"""The API's message types without the client SDK that they come with."""

import sys
from importlib.util import find_spec, module_from_spec


def leave_out_sdk() -> None:
    """Lets ``temporalio.api`` be imported alone.

    The package's ``__init__`` loads the SDK's Rust core, which a server has no use for: 0.1 s and 8 MB.
    Called before anything imports ``temporalio``; afterwards it does nothing.
    """
    if "temporalio" not in sys.modules:
        spec = find_spec("temporalio")
        assert spec
        sys.modules["temporalio"] = module_from_spec(spec)
