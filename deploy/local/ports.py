"""Ports of 127.0.0.1 for parts that start."""

import os
import random
import socket

from deploy.local.errors import PartError

# Below the range the system picks from for outgoing connections: a client that retries a port of that range while its
# server is down can end up connected to itself, and then the server cannot have its port back.
DEFAULT_RANGE = "20000-31999"
RANGE_VARIABLE = "ODRADEK_TEST_PORTS"


def free_ports(count: int) -> list[int]:
    """`count` ports that nobody listens at, out of the range in ODRADEK_TEST_PORTS ("first-last").

    Raises:
        PartError: When the range is malformed or holds too few free ports.
    """
    candidates = list(_range())
    random.shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            return found
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise PartError(f"{count} free ports are needed and {_given()} has {len(found)}")
    return found


def first_of_free_ports(count: int) -> int:
    """The first of `count` ports side by side that nobody listens at. Raises PartError as `free_ports` does."""
    ports = _range()
    firsts = list(range(ports.start, ports.stop - count + 1))
    random.shuffle(firsts)
    for first in firsts:
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise PartError(f"{count} free ports side by side are needed and {_given()} has none such")


def _given() -> str:
    return os.environ.get(RANGE_VARIABLE, DEFAULT_RANGE)


def _range() -> range:
    given = _given()
    first, dash, last = given.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise PartError(f"{RANGE_VARIABLE} must be like {DEFAULT_RANGE}, not {given!r}")
    return range(int(first), int(last) + 1)


def require_free(*ports: int) -> None:
    """Raises PartError when somebody listens at one of `ports`: who waits for a part there would take them for it."""
    taken = [port for port in ports if not _is_free(port)]
    if taken:
        raise PartError(f"another process listens at port {', '.join(map(str, taken))} of 127.0.0.1")


def _is_free(port: int) -> bool:
    """Whether a server could listen at `port` of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
