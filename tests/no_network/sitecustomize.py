"""Closes the network. Python imports this at the start of every process that has this folder on PYTHONPATH.

Loopback and Unix sockets stay open. Every attempt is also written to the file $NO_NETWORK_LOG, so that
it is seen even where the error is swallowed.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

ADDRESSED = {"socket.connect", "socket.sendto", "socket.sendmsg"}
NAMED = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
PROXY_PORT = 9  # nothing listens there: proxied clients are pointed to it


def is_local(host: str) -> bool:
    """Whether a name or an address stays on this machine."""
    import ipaddress
    import socket

    if host in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse(event: str, arguments: tuple) -> None:
    """Raise for a socket or a name look-up that leaves this machine."""
    if event in ADDRESSED:
        address = arguments[1]
        if not isinstance(address, tuple):  # the path of a Unix socket
            return
        host, port = address[:2]
    elif event in NAMED:
        host, port = arguments[0], None
    else:
        return
    if host is None or isinstance(host, int):  # this machine; a netlink socket
        return
    host = host.decode() if isinstance(host, bytes) else host
    if port != PROXY_PORT and is_local(host):
        return
    target = "a download through the proxy" if port == PROXY_PORT else f"{host}:{port}" if port else host
    if log := os.environ.get("NO_NETWORK_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{event}: {target}\n")
    raise RuntimeError(
        f"The network is closed while notebooks and tests run ({event}: {target}). "
        "Put what is needed into data/ and register it in data/DATA.md."
    )


sys.addaudithook(refuse)

# Only the first sitecustomize on the path is imported; some Pythons (Homebrew's, Debian's) bring one that matters.
if __name__ == "sitecustomize":
    here = os.path.dirname(os.path.abspath(__file__))
    if spec := PathFinder.find_spec("sitecustomize", [p for p in sys.path if os.path.abspath(p) != here]):
        spec.loader.exec_module(module_from_spec(spec))
