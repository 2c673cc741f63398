"""A static web server with a delay before each answer, in a process of its own.

``python staticserver.py DIRECTORY SECONDS`` prints its port, then serves until its standard input ends. It
counts: ``GET /.count`` answers with the requests and body bytes since the last time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

_counts = [0, 0]


async def _serve(root: str, delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode("latin-1")
            if target == "/.count":
                body = f"{_counts[0]} {_counts[1]}".encode()
                _counts[:] = [0, 0]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                continue
            if delay:
                await asyncio.sleep(delay)
            try:
                with open(os.path.join(root, unquote(target).lstrip("/")), "rb") as file:
                    body = file.read()
                status = b"200 OK"
            except OSError:
                body, status = b"", b"404 Not Found"
            _counts[0] += 1
            _counts[1] += len(body)
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(body)))
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _main(root: str, delay: float) -> None:
    server = await asyncio.start_server(
        lambda r, w: _serve(root, delay, r, w), "127.0.0.1", 0, backlog=256, limit=1 << 16
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)


class Server:
    """A running server; ``url`` is its address."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"

    def counts(self) -> tuple[int, int]:
        """Requests and bytes since the last call."""
        from urllib.request import ProxyHandler, build_opener

        with build_opener(ProxyHandler({})).open(self.url + "/.count") as answer:
            requests, size = answer.read().split()
        return int(requests), int(size)


@contextlib.contextmanager
def serve(root: Path, delay: float = 0.0) -> Iterator[Server]:
    """Starts a server of ``root`` with ``delay`` s before each answer."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(root), str(delay)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Server(process, int(process.stdout.readline()))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2])))
