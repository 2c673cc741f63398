"""The distribution-spec client: manifests, blobs, tags and referrers, from registries and their mirrors.

Every request is sent without credentials first; a registry that wants some says so. Failures that may pass
(broken connections, 5xx, 429) are retried with growing pauses, a broken blob transfer goes on where it broke.
Bytes of blobs come out as they came in, unverified: they are read through
:class:`udk.base.verified.VerifiedReader`.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from udk.errors import (
    IntegrityError,
    InvalidDigestError,
    InvalidReferenceError,
    NetworkError,
    NotFoundError,
    ProtocolError,
    RegistryError,
)  # fmt: skip
from udk.oci import mediatypes
from udk.oci.digest import Digest, digest_of
from udk.oci.reference import check_tag
from udk.oci.strictjson import MAX_BYTES
from udk.oci.text import quoted
from udk.registry import conf
from udk.registry.answers import next_link, status_error, warning_text
from udk.registry.auth import MAX_TOKEN_BODY, Authenticator
from udk.registry.blob import BlobFetch
from udk.registry.credentials import CredentialStore
from udk.registry.failures import UntrustedCertificate
from udk.registry.options import RegistryOptions, is_loopback
from udk.registry.peers import origin
from udk.registry.retry import Retry
from udk.registry.transport import Answer, NotHttp, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeVar

    from udk.oci.descriptor import Descriptor
    from udk.oci.reference import Reference
    from udk.registry.credentials import Credential

    T = TypeVar("T")

MAX_LISTING = 16 << 20  # bytes of one page of tags: some registries do not page
MAX_PAGES = 1000
MAX_ROWS = 1_000_000
PAGE = 1000
_HTTPS_HINTS = (b"http request to an https server", b"http request was sent to https port")


class RegistryClient:
    """Talks to registries. One client may be used by several threads; ``close`` ends what they are doing.

    ``warnings`` collects what registries want users to be told, each text once."""

    def __init__(self, options: RegistryOptions | None = None) -> None:
        self.options = options or RegistryOptions()
        self.conf = conf.load(self.options)
        self.transport = Transport(self.options)
        self.credentials = CredentialStore(self.options, self.conf.helpers)
        self.auth = Authenticator(self.transport, self.credentials, self._send_token)
        self.warnings: list[str] = []
        self._schemes: dict[str, str] = {}  # host -> the scheme it answered to
        self._delivered: dict[Digest, str] = {}  # blob -> name of the endpoint it came from last
        self._served: dict[str, conf.Endpoint] = {}  # name -> the endpoint that had its manifest
        self._closing = threading.Event()

    def close(self) -> None:
        """Breaks off transfers and pauses in all threads, and closes connections."""
        self._closing.set()
        self.transport.close()

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- what can be asked for

    def manifest(self, ref: Reference) -> tuple[bytes, str, Digest]:
        """The bytes, media type and digest of the manifest or index that ``ref`` names, verified."""
        return self._first(ref, lambda endpoint: self._manifest(endpoint, ref))

    def resolve(self, ref: Reference) -> Digest:
        """The digest that the tag of ``ref`` stands for now, by HEAD where the registry says it there."""

        def ask(endpoint: conf.Endpoint) -> Digest:
            path = f"manifests/{ref.selector}"
            try:
                with self.attempt(
                    lambda: self.ask_once(endpoint, path, {"Accept": _ACCEPT}, method="HEAD"),
                    endpoint.is_mirror,
                ) as answer:
                    return Digest.parse(answer.headers.get("Docker-Content-Digest"))
            except InvalidDigestError:
                pass
            except RegistryError as e:
                if type(e) is not RegistryError:  # HEAD itself may be what it does not like
                    raise
            return self._manifest(endpoint, ref)[2]

        return ref.digest if ref.digest else self._first(ref, ask)

    def blob(self, ref: Reference, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from ``offset`` on, in chunks, unverified. Resumes when the connection breaks.

        A registry that ignores ranges is read from the start, and what is known already is skipped."""
        if descriptor.data is not None:
            yield descriptor.data[offset:]
            return
        endpoints = self._endpoints(ref)
        # Asked again for what was delivered wholly: it was not right. Another place may have better.
        doubted = self._delivered.get(descriptor.digest, "")
        endpoints.sort(key=lambda e: e.reference.name == doubted)
        for n, endpoint in enumerate(endpoints):
            fetch = BlobFetch(self, endpoint, descriptor, offset)
            try:
                yield from fetch
                self._delivered[descriptor.digest] = endpoint.reference.name
                return
            except (RegistryError, IntegrityError):
                if n + 1 == len(endpoints) or self._closing.is_set():
                    raise
                offset = fetch.position  # a blob is the same everywhere: the next place continues it

    def tags(self, ref: Reference) -> list[str]:
        """All tags of the repository of ``ref``, in the registry's order."""
        return self._first(ref, self._tags)

    def referrers(self, ref: Reference, digest: Digest, artifact_type: str = "") -> list[dict[str, object]]:
        """Descriptors (as JSON objects) of what refers to the manifest ``digest``; [] if nothing does.

        Falls back to the tag scheme of the distribution-spec where the registry lacks the API."""
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        tag = f"{digest.algorithm[:32]}-{digest.hex[:64]}"

        def ask(endpoint: conf.Endpoint) -> list[dict[str, object]]:
            try:
                rows = self._pages(endpoint, f"referrers/{digest}{query}", "manifests")
            except NotFoundError:
                try:
                    rows = self._pages(endpoint, f"manifests/{tag}", "manifests")
                except NotFoundError:
                    return []
            found = [row for row in rows if isinstance(row, dict)]
            return [row for row in found if artifact_type in ("", row.get("artifactType"))]

        return self._first(ref, ask)

    def check_credentials(self, endpoint: conf.Endpoint, credential: Credential) -> None:
        """Raises AuthError unless the registry takes ``credential``; one that asks nobody takes all."""

        def ask() -> Answer:
            answer = self.ask_once(endpoint, "", {})
            if self.auth.header(self._base(endpoint), ""):
                return answer  # it wanted to know, and was content
            answer.close()
            return self.ask_once(endpoint, "", {"Authorization": credential.basic})

        self.attempt(ask).close()

    # --- how it is asked

    def _endpoints(self, ref: Reference) -> list[conf.Endpoint]:
        """Endpoints of ``ref``, first the one that has had its manifest."""
        known = self._served.get(ref.name)
        endpoints = self.conf.endpoints(ref)
        return sorted(endpoints, key=lambda e: known is None or e.reference.name != known.reference.name)

    def _first(self, ref: Reference, ask: Callable[[conf.Endpoint], T]) -> T:
        """The answer of the first endpoint that has one; the last one's error if none has."""
        endpoints = self._endpoints(ref)
        for n, endpoint in enumerate(endpoints):
            try:
                found = ask(endpoint)
            except (RegistryError, IntegrityError):
                if n + 1 == len(endpoints) or self._closing.is_set():
                    raise
            else:
                self._served[ref.name] = endpoint
                return found
        raise AssertionError("there is always an endpoint")

    def _manifest(self, endpoint: conf.Endpoint, ref: Reference) -> tuple[bytes, str, Digest]:
        what = f"the manifest of {ref.familiar}"
        answer = self._document(endpoint, f"manifests/{ref.selector}", _ACCEPT, MAX_BYTES, what)
        data = answer.read(MAX_BYTES, what)
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        stated = answer.headers.get("Docker-Content-Digest", "")
        digest = digest_of(data, ref.digest.algorithm if ref.digest else "sha256")
        if ref.digest and digest != ref.digest:
            raise IntegrityError(f"registry {endpoint.reference.host} answered {ref.familiar} with {digest}")
        try:
            announced = Digest.parse(stated) if stated else None
        except InvalidDigestError:
            announced = None  # of an algorithm we do not have: the bytes are judged by what they are
        if announced and not announced.matches(data):
            raise IntegrityError(
                f"registry {endpoint.reference.host} announced {announced} and sent {digest}"
            )
        return data, media_type, digest

    def _tags(self, endpoint: conf.Endpoint) -> list[str]:
        found: dict[str, None] = {}
        for tag in self._pages(endpoint, f"tags/list?n={PAGE}", "tags"):
            try:
                check_tag(tag if isinstance(tag, str) else "", "")
            except InvalidReferenceError:
                continue  # nobody could pull it, and a terminal should not see it
            found[str(tag)] = None
        return list(found)

    def _pages(self, endpoint: conf.Endpoint, path: str, member: str) -> list[object]:
        """The members of all pages of a listing, following Link within the same API of the same host."""
        rows: list[object] = []
        host, seen = endpoint.reference.host, set()
        accept, url = f"application/json, {mediatypes.OCI_INDEX}", ""
        for _ in range(MAX_PAGES):
            answer = self._document(endpoint, path, accept, MAX_LISTING, f"the list of {member}", url)
            link, here = next_link(answer.headers.get("Link", "")), answer.url
            try:
                page = json.loads(answer.read(MAX_LISTING, member))
                items = page.get(member) or []
            except (ValueError, AttributeError, RecursionError):
                raise ProtocolError(f"{host} sent a list of {member} that is no JSON object") from None
            if not isinstance(items, list):
                raise ProtocolError(f"{host} sent {quoted(member)} that are no list")
            rows += items
            if len(rows) > MAX_ROWS:
                raise ProtocolError(f"{host} lists more than {MAX_ROWS} {member}")
            if not link:
                return rows
            url = urljoin(here, link)
            base = f"/v2/{endpoint.reference.repository}/"
            if origin(url) != origin(here) or not urlsplit(url).path.startswith(base):
                raise ProtocolError(f"{host} continues its list at {quoted(url, 80)}, which is another place")
            if url in seen:
                raise ProtocolError(f"{host} sends the same page of {member} again and again")
            seen.add(url)
        raise ProtocolError(f"{host} has more than {MAX_PAGES} pages of {member}")

    def _document(
        self, endpoint: conf.Endpoint, path: str, accept: str, limit: int, what: str, url: str = ""
    ) -> Answer:
        """An answer read wholly, tried again also when it breaks off within the body. It is closed."""

        def ask() -> Answer:
            with self.ask_once(endpoint, path, {"Accept": accept}, url=url) as answer:
                encoding = answer.headers.get("Content-Encoding", "identity").lower()
                if encoding not in ("identity", ""):
                    raise ProtocolError(f"{what} came encoded, which was not asked for")
                if answer.headers.get("Content-Type", "").lower().startswith("text/html"):
                    raise ProtocolError(
                        f"{endpoint.reference.host} answered with a web page instead of {what}",
                        "is it a registry? a proxy or a login page may be in the way",
                    )
                answer.read(limit, what)
                return answer

        return self.attempt(ask, endpoint.is_mirror)

    def attempt(self, ask: Callable[[], Answer], mirror: bool = False) -> Answer:
        """What ``ask`` gives, asked again while it fails in a way that may pass."""
        retry = self.retry(mirror)
        while True:
            try:
                return ask()
            except RegistryError as e:
                retry.failed(e)

    def retry(self, mirror: bool = False, begun: bool = False) -> Retry:
        return Retry(self.options, self._wait, mirror=mirror, begun=begun)

    def _wait(self, seconds: float) -> None:
        if self._closing.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise NetworkError("the transfer was cancelled")

    def ask_once(
        self,
        endpoint: conf.Endpoint,
        path: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        url: str = "",
    ) -> Answer:
        """One request to the repository's API, authenticated as the registry demands; only success
        returns."""
        if self._closing.is_set():
            raise NetworkError("the transfer was cancelled")
        ref = endpoint.reference
        what = f"{ref.repository} {path.partition('?')[0]}".strip() or "access"
        base, used, answer = self._open(endpoint, path, headers, method, url)
        for _ in range(2):  # the first may refuse a token that has just expired
            if answer.status != 401:
                break
            if answer.redirected:
                answer = self._elsewhere(answer, method, headers, ref)
                break
            with answer:
                used = self.auth.challenged(base, ref.host, ref.repository, answer, used)
            target = url or _url(base, ref, path)
            answer = self.transport.send(method, target, {**headers, "Authorization": used})
        self._note_warning(answer)
        if answer.status in (200, 206) or (answer.status == 416 and "Range" in headers):
            return answer
        with answer:
            if answer.status in (401, 403):
                raise self.auth.refused(ref.host, what, answer)
            raise status_error(answer.status, ref.host, what, answer.error_body(), answer.headers)

    def _elsewhere(self, answer: Answer, method: str, headers: Mapping[str, str], ref: Reference) -> Answer:
        """After a redirect another host asks who we are: nobody, to it. Only an anonymous token is
        fetched."""
        where, url = "{}://{}:{}".format(*origin(answer.url)), answer.url
        with answer:
            header = self.auth.challenged(where, origin(url)[1], "", answer, "", anonymous=True)
        return self.transport.send(method, url, {**headers, "Authorization": header})

    def _open(
        self, endpoint: conf.Endpoint, path: str, headers: Mapping[str, str], method: str, url: str
    ) -> tuple[str, str, Answer]:
        """The scheme and host that answer for the endpoint, the ``Authorization`` they had, the answer."""
        ref = endpoint.reference
        failure: RegistryError | None = None
        for scheme in self.schemes(endpoint):
            base = f"{scheme}://{ref.api_host}"
            authorization = self.auth.header(base, ref.repository)
            extra = {"Authorization": authorization} if authorization else {}
            try:
                answer = self.transport.send(method, url or _url(base, ref, path), {**headers, **extra})
            except NotHttp as e:
                failure = failure or e
                continue
            except RegistryError as e:
                failure = e if isinstance(e, UntrustedCertificate) else failure or e
                if scheme == "https" and ref.api_host not in self._schemes:
                    continue  # insecure registries are tried with TLS first
                break
            if scheme == "http" and answer.status == 400 and ref.api_host not in self._schemes:
                body = answer.error_body()
                if any(hint in body.lower() for hint in _HTTPS_HINTS):
                    answer.close()
                    failure = failure or NetworkError(f"registry {ref.host} wants TLS")
                    continue
            self._schemes[ref.api_host] = scheme
            return base, authorization, answer
        raise failure or AssertionError("there is always a scheme")

    def _base(self, endpoint: conf.Endpoint) -> str:
        return f"{self.schemes(endpoint)[0]}://{endpoint.reference.api_host}"

    def schemes(self, endpoint: conf.Endpoint) -> tuple[str, ...]:
        """The schemes to try, in order. Plain HTTP only on loopback, or where the user allowed it."""
        host = endpoint.reference.api_host
        if host in self._schemes:
            return (self._schemes[host],)
        if endpoint.insecure or self.options.is_insecure(host):
            self.transport.allow_insecure(host)
            return ("https", "http")
        if is_loopback(host):
            return ("https",) if self.transport.has_certificates(host) else ("http", "https")
        return ("https",)

    def _send_token(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        def ask() -> Answer:
            answer = self.transport.send(method, url, headers, body=body, redirects=method == "GET")
            if answer.status == 429 or answer.status >= 500:
                with answer:
                    raise status_error(
                        answer.status, origin(url)[1], "a token", answer.error_body(), answer.headers
                    )
            if answer.status == 200:
                with answer:
                    answer.read(MAX_TOKEN_BODY, "the token")
            return answer

        return self.attempt(ask)

    def _note_warning(self, answer: Answer) -> None:
        text = warning_text(answer.headers.get("Warning", ""))
        if text and text not in self.warnings:
            self.warnings.append(text)


def _url(base: str, ref: Reference, path: str) -> str:
    return f"{base}/v2/{ref.repository}/{path}" if ref.repository else f"{base}/v2/{path}"


_ACCEPT = ", ".join(mediatypes.ACCEPTED)
