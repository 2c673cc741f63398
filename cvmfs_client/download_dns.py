"""Host names to addresses, with a deadline, kept for a while, and kept longer when the name service is
gone.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from typing import NamedTuple, Optional

from .download_url import TransferError
from .forksafe import ForkSafe

_A, _CNAME, _AAAA = 1, 5, 28


class _Known(NamedTuple):
    addresses: list[str]
    until: float


class Resolver(ForkSafe):
    """Thread-safe. ``prefer``: 4 or 6, which family comes first; ``server``: address[:port] of a name server
    to ask instead of the system's way. ``timeout`` in s per attempt."""

    def __init__(
        self,
        *,
        server: str = "",
        timeout: float = 3.0,
        retries: int = 1,
        minimum_ttl: float = 60.0,
        maximum_ttl: float = 86400.0,
        prefer: int = 4,
    ) -> None:
        super().__init__()
        self._server = server
        self._timeout = timeout
        self._retries = retries
        self._minimum, self._maximum = minimum_ttl, maximum_ttl
        self._prefer = prefer
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, host: str) -> list[str]:
        """The addresses of ``host``, preferred family first. Raises TransferError (stage "resolve")."""
        if is_address(host):
            return [host]
        now = time.monotonic()
        with self._lock:
            known = self._known.get(host)
        if known is not None and now < known.until:
            return known.addresses
        try:
            addresses, ttl = self._look_up(host)
        except TransferError:
            if known is not None:  # stale, but better than nothing
                with self._lock:
                    self._known[host] = _Known(known.addresses, now + self._minimum)
                return known.addresses
            raise
        addresses.sort(key=lambda a: (":" in a) != (self._prefer == 6))
        with self._lock:
            self._known[host] = _Known(addresses, now + min(max(ttl, self._minimum), self._maximum))
        return addresses

    def forget(self) -> None:
        """Looks all names up anew when they are next needed (the network has changed)."""
        with self._lock:
            self._known = {host: known._replace(until=0.0) for host, known in self._known.items()}

    def _look_up(self, host: str) -> tuple[list[str], float]:
        failure = TransferError(f"looking up {host}: timed out", "resolve", timeout=True)
        for _ in range(1 + self._retries):
            try:
                if self._server:
                    return _ask_server(self._server, host, self._timeout)
                return _ask_system(host, self._timeout * (1 + self._retries)), 0.0
            except TransferError as error:
                failure = error
                if not error.timeout or not self._server:
                    break
        raise failure


def is_address(host: str) -> bool:
    """Whether ``host`` is a literal IPv4 or IPv6 address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
            return True
        except (OSError, ValueError):
            pass
    return False


def _ask_system(host: str, timeout: float) -> list[str]:
    """getaddrinfo has no deadline of its own: it runs in a thread that is abandoned when it takes too
    long.
    """
    answer: list[object] = []

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answer.append([str(item[4][0]) for item in found])
        except (OSError, UnicodeError) as error:
            answer.append(error)

    thread = threading.Thread(target=ask, name="cvmfs-resolve", daemon=True)
    thread.start()
    thread.join(timeout)
    if not answer:
        raise TransferError(f"looking up {host}: timed out", "resolve", timeout=True)
    if isinstance(answer[0], list):
        return list(dict.fromkeys(answer[0]))
    reason = getattr(answer[0], "strerror", None) or str(answer[0])
    raise TransferError(f"looking up {host}: {reason}", "resolve")


def _ask_server(server: str, host: str, timeout: float) -> tuple[list[str], float]:
    """A and AAAA records from one name server over UDP (RFC 1035), and the smallest time to live in s."""
    address, port = server, 53
    if server.startswith("["):
        address, _, rest = server[1:].partition("]")
        port = int(rest[1:]) if rest[1:].isdigit() else 53
    elif server.count(":") == 1 and server.rpartition(":")[2].isdigit():
        address, _, text = server.partition(":")
        port = int(text)
    if not is_address(address):
        raise TransferError(f"the name server {server!r} is not an address", "resolve")
    found: list[str] = []
    ttl = 86400.0
    failure: Optional[TransferError] = None
    for kind in (_A, _AAAA):
        try:
            addresses, least = _query(address, port, host, kind, timeout)
        except TransferError as error:
            failure = error
            continue
        found += addresses
        ttl = min(ttl, least)
    if found:
        return list(dict.fromkeys(found)), ttl
    raise failure or TransferError(f"{host} has no address", "resolve")


def _query(address: str, port: int, host: str, kind: int, timeout: float) -> tuple[list[str], float]:
    try:
        labels = [
            label.encode("idna" if not label.isascii() else "ascii") for label in host.rstrip(".").split(".")
        ]
    except UnicodeError:
        labels = [b""]
    if any(not 0 < len(label) < 64 for label in labels):
        raise TransferError(f"{host[:100]!r} is not a host name", "resolve")
    ident = random.SystemRandom().randrange(65536)
    question = (
        b"".join(bytes((len(label),)) + label for label in labels) + b"\0" + struct.pack(">HH", kind, 1)
    )
    message = struct.pack(">HHHHHH", ident, 0x0100, 1, 0, 0, 0) + question
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, port))
            sock.send(message)
            while True:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                reply = sock.recv(4096)
                # anything else is not the answer to this question
                if reply[:2] == message[:2] and reply[12 : 12 + len(question)].lower() == question.lower():
                    return _parse(reply, 12 + len(question), host)
        except (TimeoutError, socket.timeout) as error:
            raise TransferError(
                f"looking up {host} at {address}: timed out", "resolve", timeout=True
            ) from error
        except (struct.error, IndexError) as error:
            raise TransferError(f"looking up {host} at {address}: malformed answer", "resolve") from error
        except OSError as error:
            raise TransferError(f"looking up {host} at {address}: {error.strerror}", "resolve") from error


def _parse(reply: bytes, at: int, host: str) -> tuple[list[str], float]:
    flags, _, answers = struct.unpack_from(">HHH", reply, 2)
    if flags & 15 == 3:
        raise TransferError(f"{host} does not exist", "resolve")
    if flags & 15:
        raise TransferError(
            f"the name server cannot look up {host} (code {flags & 15})", "resolve", timeout=True
        )
    found: list[str] = []
    least = 86400.0
    for _ in range(answers):
        while reply[at]:  # the owner's name, possibly compressed
            if reply[at] >= 0xC0:
                at += 1
                break
            at += 1 + reply[at]
        at += 1
        kind, family, ttl, length = struct.unpack_from(">HHIH", reply, at)
        data = reply[at + 10 : at + 10 + length]
        at += 10 + length
        if family == 1 and (kind, length) in ((_A, 4), (_AAAA, 16)):
            found.append(socket.inet_ntop(socket.AF_INET if kind == _A else socket.AF_INET6, data))
        if kind in (_A, _AAAA, _CNAME):
            least = min(least, float(ttl))
    return found, least
