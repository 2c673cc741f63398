"""A real squid on loopback for tests, run by the ordinary user who runs the tests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.needs import find


class Squid:
    """A running squid: ``url`` and its access log."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process = process
        self._log = log

    def lines(self) -> list[str]:
        """The access log so far."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def stop(self) -> None:
        """Ends it at once: connections are refused from now on."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def start_squid(program: str, config: Path, port: int) -> subprocess.Popen[bytes]:
    """Squid in the foreground. Its shared memory is named after the service: with one name for all, a squid
    of another user, or one that was killed, would keep this one from starting."""
    return subprocess.Popen(
        [program, "-N", "-n", f"udk{port}", "-f", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=config.parent,
    )


def forget_squid(port: int) -> None:
    """Removes the shared memory that a killed squid leaves."""
    for segment in Path("/dev/shm").glob(f"udk{port}-*"):
        segment.unlink(missing_ok=True)


@contextlib.contextmanager
def running_squid(directory: Path) -> Iterator[Squid]:
    """Starts squid with its files in ``directory``; it may go to any port of this machine."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = directory / "squid.conf"
    config.write_text(
        f"""
http_port 127.0.0.1:{port}
http_access allow all
cache_mem 32 MB
maximum_object_size_in_memory 8 MB
cache_log {directory}/cache.log
access_log stdio:{directory}/access.log
pid_filename {directory}/squid.pid
coredump_dir {directory}
visible_hostname squid.test
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
max_filedescriptors 512
connect_timeout 2 seconds
read_timeout 5 seconds
negative_ttl 0 seconds
refresh_pattern /data/ 60 100% 60
refresh_pattern . 0 20% 0
"""
    )
    program = find("squid")
    assert program is not None
    process = start_squid(program, config, port)
    squid = Squid(port, process, directory / "access.log")
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = directory / "cache.log"
                    raise AssertionError(log.read_text()[-2000:] if log.exists() else "squid did not start")
                time.sleep(0.05)
        yield squid
    finally:
        squid.stop()
        forget_squid(port)
