"""`python -m deploy.local.watch DIR`: ends the parts of DIR once standard input ends.

Tests hold the other end of it, so that no part outlives them, not even when they are killed.
"""

import sys
from pathlib import Path

from deploy.local.process import kill_all

if __name__ == "__main__":
    sys.stdin.read()
    kill_all(Path(sys.argv[1]))
