"""What registries say beside the content: error bodies, Link, Retry-After and Warning headers. Pure
functions.

All of it is text from outside: it is cleaned to one printable line before anybody sees it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from udk.errors import AuthError, NotFoundError, RegistryError
from udk.oci.text import clean
from udk.registry.retry import Throttled, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ERROR_BODY = 64 << 10


def error_detail(body: bytes, content_type: str = "") -> tuple[str, str]:
    """Code (``MANIFEST_UNKNOWN`` ...) and message of an error body of any kind, JSON or not; ``""`` for
    none."""
    text = body[:MAX_ERROR_BODY].decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        errors = value.get("errors")
        first = errors[0] if isinstance(errors, list) and errors else value
        if isinstance(first, dict):
            code, message = (
                first.get("code"),
                first.get("message") or first.get("error") or first.get("details"),
            )
            return clean(code if isinstance(code, str) else "", 40), clean(_line(message), 160)
        return "", ""
    if value is not None or "html" in content_type.lower() or text.startswith("<"):
        return "", ""  # a page for browsers says nothing in one line
    return "", clean(_line(text), 160)


def _line(text: object) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""


def status_error(status: int, host: str, what: str, body: bytes, headers: Mapping[str, str]) -> RegistryError:
    """The error for an answer that is not a success. ``what`` was asked of ``host``."""
    code, message = error_detail(body, headers.get("Content-Type", ""))
    said = f" ({message})" if message else (f" ({code})" if code else "")
    if status in (401, 403):
        return AuthError(
            f"registry {host} refuses {what}{said}",
            f"check the name; if it is private, 'udk login {host}' with an account that may read it",
        )
    if status == 404 or code in ("NAME_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"):
        return NotFoundError(f"registry {host} does not have {what}{said}", "check the name and the tag")
    wait = retry_after(headers.get("Retry-After", ""), time.time())
    if status == 429 or code == "TOOMANYREQUESTS":
        throttled = Throttled(
            f"registry {host} limits the rate of requests{said}",
            f"wait, 'udk login {host}' for a higher limit, or use a mirror",
        )
        throttled.wait = wait
        return throttled
    if status >= 500 or status == 408:
        unavailable = Unavailable(f"registry {host} answered {status} for {what}{said}", "try again later")
        unavailable.wait = wait
        return unavailable
    return RegistryError(f"registry {host} answered {status} for {what}{said}")


def retry_after(value: str, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date; RFC 9110, 10.2.3), None if it says
    nothing.

    ``now`` is the time in seconds since the epoch."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 10 else float("inf")
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def next_link(value: str) -> str:
    """The target of ``rel="next"`` in a Link header (RFC 8288), ``""`` if there is none."""
    for part in _split_links(value):
        target, _, parameters = part.partition(">")
        if not target.strip().startswith("<"):
            continue
        for parameter in parameters.split(";"):
            name, _, text = parameter.partition("=")
            if name.strip().lower() == "rel" and "next" in text.strip().strip('"').lower().split():
                return target.strip()[1:].strip()
    return ""


def _split_links(value: str) -> list[str]:
    parts, depth, start = [], False, 0
    for i, c in enumerate(value[:8192]):
        if c == "<":
            depth = True
        elif c == ">":
            depth = False
        elif c == "," and not depth:
            parts.append(value[start:i])
            start = i + 1
    return [*parts, value[start:8192]]


def warning_text(value: str) -> str:
    """The text of a ``Warning: 299 - "text"`` header (distribution-spec, Warnings), ``""`` for other
    codes."""
    value = value.strip()
    if not value.startswith("299 "):
        return ""
    start = value.find('"')
    if start < 0:
        return ""
    text, escaped = [], False
    for c in value[start + 1 : 2048]:
        if escaped:
            text.append(c)
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == '"':
            break
        else:
            text.append(c)
    return clean(_line("".join(text)), 300)
