"""Whether a port can be had, told before anything starts."""

import socket

from server.errors import StartupError


def check_port(name: str, ip: str, port: int) -> None:
    """Returns if ``ip`` and ``port`` can be listened on. Raises :class:`StartupError`."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server itself does, so that connections that still linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            raise StartupError(f"cannot listen on {name} {address(ip, port)}: {error.strerror}") from None


def address(ip: str, port: int) -> str:
    """Returns ``ip:port``, the IP in brackets if it is an IPv6 one."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
