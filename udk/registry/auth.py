"""Authentication at registries, lazily: nothing is sent until a registry asks, and then only what it needs.

The token flow is that of the distribution project (Basic credentials at a realm for a bearer token, or an
identity token by POST). A registry chooses its realm, so the realm is checked before it sees anything: it
must be as private as the registry (TLS, unless both are on loopback or allowed as insecure), not an address
only we can reach, and for credentials, not only anonymous tokens, the same site as the registry or a host
that the user knows.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from udk.errors import AuthError, ProtocolError, RegistryError
from udk.oci.text import clean, quoted
from udk.registry.answers import error_detail, status_error
from udk.registry.challenge import Challenge, parse_challenges
from udk.registry.options import bare_host, ip_address, is_loopback
from udk.registry.peers import check_host, host_of, origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from udk.registry.credentials import Credential, CredentialStore
    from udk.registry.transport import Answer, Transport

MAX_TOKEN_BODY = 1 << 20
MAX_TOKEN = 64 << 10
CLIENT_ID = "udk"
_LEAST_LIFE = 60.0  # what a token without expires_in is good for (token specification)
_MARGIN = 10.0
_SHARED_SECOND_LEVELS = frozenset(("ac", "co", "com", "edu", "gov", "net", "org"))


class Authenticator:
    """Keeps the ``Authorization`` of each (registry, repository) and renews it. May be used by several
    threads.

    ``send`` makes one exchange with the retries of the client: ``send(method, url, headers, body)``."""

    def __init__(
        self, transport: Transport, credentials: CredentialStore, send: Callable[..., Answer]
    ) -> None:
        self.options = transport.options
        self.transport = transport
        self.credentials = credentials
        self._send = send
        self._held: dict[tuple[str, str], tuple[str, float]] = {}  # (origin, repository) -> header, expiry
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def header(self, registry: str, repository: str) -> str:
        """The ``Authorization`` to send at once, ``""`` if none is known to be needed. ``registry`` is its
        URL."""
        with self._lock:
            header, expiry = self._held.get((registry, repository), ("", 0.0))
        return header if time.monotonic() < expiry else ""

    def challenged(
        self, registry: str, host: str, repository: str, answer: Answer, used: str, anonymous: bool = False
    ) -> str:
        """The ``Authorization`` that answers the 401 ``answer``; ``used`` is what it refused.

        ``host`` names the registry as users and auth files do. Raises AuthError when there is nothing (more)
        to offer, ProtocolError for challenges that cannot be answered safely."""
        key = (registry, repository)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:  # of several threads that are refused at once, one asks for a token
            known = self.header(registry, repository)
            if known and known != used:
                return known
            header, life = self._answer(registry, host, repository, answer, used, anonymous)
            with self._lock:
                self._held[key] = (header, time.monotonic() + life)
            return header

    def refused(self, host: str, repository: str, answer: Answer) -> RegistryError:
        """The error for a 401 or 403 that nothing can be done about."""
        error = status_error(answer.status, host, repository, answer.error_body(), answer.headers)
        if self.credentials.notes:
            error.message += f" ({clean('; '.join(self.credentials.notes))})"
        return error

    # --- one challenge

    def _answer(
        self, registry: str, host: str, repository: str, answer: Answer, used: str, anonymous: bool
    ) -> tuple[str, float]:
        challenges = parse_challenges(answer.headers.get("WWW-Authenticate", ""))
        credential = None if anonymous else self.credentials.find(host, repository)
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.get("realm")), None)
        if bearer is not None:
            if credential is not None and credential.registry_token:
                header = f"Bearer {_checked_token(credential.registry_token, 'the registry token')}"
                if header == used:
                    raise self.refused(host, repository, answer)
                return header, float("inf")
            return self._bearer(registry, host, repository, bearer, credential)
        if any(c.scheme == "basic" for c in challenges):
            if credential is None or not credential.username or credential.basic == used:
                raise self.refused(host, repository, answer)
            return credential.basic, float("inf")
        if challenges:
            raise ProtocolError(
                f"registry {host} wants authentication by {quoted(challenges[0].scheme, 40)}: not supported"
            )
        raise self.refused(host, repository, answer)

    def _bearer(
        self, registry: str, host: str, repository: str, challenge: Challenge, credential: Credential | None
    ) -> tuple[str, float]:
        realm = challenge.get("realm")
        self._check_realm(realm, registry, host)
        if credential is not None and not self._may_have_credentials(realm, host):
            raise AuthError(
                f"registry {host} sends its users for tokens to {quoted(host_of(realm), 80)}, another site:"
                " the password was not sent there",
                "if that is right, add it to UDK_TRUSTED_REALMS or pull.trusted_realms",
            )
        scope = challenge.get("scope") or (f"repository:{repository}:pull" if repository else "")
        fields = [("service", challenge.get("service"))] + [("scope", s) for s in scope.split(" ")]
        fields = [(k, v) for k, v in fields if v]
        if credential is not None and credential.identity_token:
            answer = self._post(realm, [("grant_type", "refresh_token"), ("client_id", CLIENT_ID),
                                        ("refresh_token", credential.identity_token), *fields])  # fmt: skip
        else:
            answer = self._get(realm, fields, credential)
        with answer:
            if answer.status in (404, 405) and credential is not None and not credential.identity_token:
                with self._post(realm, [("grant_type", "password"), ("client_id", CLIENT_ID),
                                        ("username", credential.username), ("password", credential.password),
                                        *fields]) as second:  # fmt: skip
                    return self._token(second, host, repository, credential)
            return self._token(answer, host, repository, credential)

    def _get(self, realm: str, fields: list[tuple[str, str]], credential: Credential | None) -> Answer:
        parts = urlsplit(realm)
        query = parse_qsl(parts.query, keep_blank_values=True) + fields
        headers = {"Accept": "application/json"}
        if credential is not None:
            query += [("account", credential.username), ("client_id", CLIENT_ID)]
            headers["Authorization"] = credential.basic
        return self._send("GET", parts._replace(query=urlencode(query)).geturl(), headers, None)

    def _post(self, realm: str, fields: list[tuple[str, str]]) -> Answer:
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        return self._send("POST", realm, headers, urlencode(fields).encode())

    def _token(
        self, answer: Answer, host: str, repository: str, credential: Credential | None
    ) -> tuple[str, float]:
        issuer = host_of(answer.url)
        if answer.status in (400, 401, 403):
            _, message = error_detail(answer.error_body(), answer.headers.get("Content-Type", ""))
            said = f" ({message})" if message else ""
            if credential is None:
                error = self.refused(host, repository, answer)
                error.message += said if said not in error.message else ""
                raise error
            raise AuthError(
                f"{issuer} refuses the credentials of {credential.source} for {host}{said}",
                f"'udk login {host}' again",
            )
        if answer.status != 200:
            raise status_error(answer.status, issuer, "a token", answer.error_body(), answer.headers)
        body = answer.read(MAX_TOKEN_BODY, "the token")
        try:
            value: Any = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ProtocolError(f"{issuer} sent something that is no token")
        token = value.get("token") or value.get("access_token")
        life = value.get("expires_in")
        if not isinstance(life, (int, float)) or isinstance(life, bool) or not life > 0:
            life = _LEAST_LIFE
        return f"Bearer {_checked_token(token, issuer)}", max(
            _LEAST_LIFE, float(min(life, 1 << 31))
        ) - _MARGIN

    # --- what a realm may be

    def _check_realm(self, realm: str, registry: str, host: str) -> None:
        where = f"registry {host} wants tokens from {quoted(realm, 80)}"
        try:
            parts = urlsplit(realm)
            scheme, realm_host, _ = origin(realm)
        except ValueError:
            raise ProtocolError(f"{where}, which is not an address") from None
        if not realm.isprintable() or scheme not in ("http", "https") or not realm_host:
            raise ProtocolError(f"{where}, which is not an address")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ProtocolError(f"{where}, which is not an address of tokens")
        if scheme == "http":
            allowed = is_loopback(realm_host) or self.transport.is_insecure(parts.netloc.lower())
            if not registry.startswith("http:") or not allowed:
                raise ProtocolError(f"{where}, which is not TLS: nothing was sent there")
        check_host(realm_host, origin(registry)[1], where)

    def _may_have_credentials(self, realm: str, host: str) -> bool:
        realm_host, registry_host = host_of(realm), host
        names = (realm_host, bare_host(realm_host))
        if any(n in self.options.trusted_realms for n in names) or same_site(realm_host, registry_host):
            return True
        return not self.options.username and self.credentials.find(realm_host) is not None


def same_site(a: str, b: str) -> bool:
    """Whether two hosts (ports do not count) belong to one organisation, judged by their names.

    They are equal, or share a domain of two labels, three where the second is a registry's own
    (``co.uk``)."""
    first, second = bare_host(a).lower().rstrip("."), bare_host(b).lower().rstrip(".")
    if first == second:
        return True
    if ip_address(first) is not None or ip_address(second) is not None:
        return False
    one, other = first.split(".")[::-1], second.split(".")[::-1]
    common = 0
    for left, right in zip(one, other):
        if left != right:
            break
        common += 1
    shared = len(one) > 1 and len(one[0]) == 2 and one[1] in _SHARED_SECOND_LEVELS
    return common >= (3 if shared else 2)


def _checked_token(token: Any, issuer: str) -> str:
    if not isinstance(token, str) or not token:
        raise ProtocolError(f"{clean(issuer)} sent no token")
    if len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ProtocolError(f"{clean(issuer)} sent a token that cannot be used")
    return token
