"""TLS: which certificates are trusted, client certificates, plain HTTP by choice only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.registry.conftest import Served
from tests.support.registry import FaultyRegistry
from tests.support.tls import self_signed, tls_context
from udk.errors import ConfigError, ProtocolError, RegistryError
from udk.oci.reference import Reference
from udk.registry.client import RegistryClient


@pytest.fixture
def secure(served: Served, tmp_path: Path) -> Iterator[FaultyRegistry]:
    cert, key = self_signed(tmp_path / "server")
    with FaultyRegistry({"team/app": served.layout.path}, tls=tls_context(cert, key)) as registry:
        yield registry


def at(registry: FaultyRegistry) -> Reference:
    return Reference.parse(f"{registry.host}/team/app:1")


def certs_d(home: str, host: str) -> Path:
    path = Path(home) / ".config" / "containers" / "certs.d" / host
    path.mkdir(parents=True)
    return path


def test_an_unknown_authority(secure: FaultyRegistry, options: Any) -> None:
    with RegistryClient(options()) as client:
        with pytest.raises(
            RegistryError, match=rf"not trusted: self.signed.*; put .*certs.d/{secure.host}/ca.crt"
        ):
            client.manifest(at(secure))
    assert secure.requests() == []


def test_an_authority_in_certs_d(
    secure: FaultyRegistry, options: Any, served: Served, tmp_path: Path
) -> None:
    given = options()
    (certs_d(given.home, secure.host) / "ca.crt").write_bytes((tmp_path / "server" / "cert.pem").read_bytes())
    with RegistryClient(given) as client:
        assert client.manifest(at(secure))[0] == served.image.manifest
        assert b"".join(client.blob(at(secure), served.manifest.layers[0])) == served.image.layers[0]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_authority_by_variable(
    secure: FaultyRegistry, tmp_path: Path, options: Any, variable: str
) -> None:
    """In a process of its own: OpenSSL reads the process's environment."""
    code = (
        "import sys; from udk.oci.reference import Reference; from udk.registry.client import *\n"
        "print(RegistryClient().manifest(Reference.parse(sys.argv[1]))[2])"
    )
    environ = {k: v for k, v in os.environ.items() if not k.endswith(("CA_BUNDLE", "CERT_FILE", "CERT_DIR"))}
    environ.update({variable: str(tmp_path / "server" / "cert.pem"), "HOME": str(tmp_path)})
    ran = subprocess.run(
        [sys.executable, "-c", code, str(at(secure))], env=environ, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.startswith("sha256:"), ran.stderr


@pytest.mark.parametrize("how", ["option", "star", "conf"])
def test_unverified_by_choice(
    secure: FaultyRegistry, options: Any, served: Served, tmp_path: Path, how: str
) -> None:
    changes: dict[str, Any] = {"insecure": ("*",) if how == "star" else (secure.host,)}
    if how == "conf":
        path = tmp_path / "insecure.conf"
        path.write_text(f'[[registry]]\nlocation="{secure.host}"\ninsecure=true\n')
        changes = {"registries_conf": str(path)}
    with RegistryClient(options(**changes)) as client:
        assert client.manifest(at(secure))[0] == served.image.manifest


def test_plain_by_choice_is_tried_after_tls(served: Served, options: Any) -> None:
    """A host that is not loopback: without the choice it is never spoken to in plain."""
    name = f"localhost.localdomain:{served.registry.port}"
    ref = Reference.parse(f"{name}/team/app:1")
    with RegistryClient(options(attempts=1)) as client:
        with pytest.raises(RegistryError):
            client.manifest(ref)
    assert served.registry.requests() == []


def test_a_wrong_name(served: Served, options: Any, tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path / "other", "192.0.2.1")
    with FaultyRegistry({"team/app": served.layout.path}, tls=tls_context(cert, key)) as registry:
        given = options()
        (certs_d(given.home, registry.host) / "ca.crt").write_bytes(cert.read_bytes())
        with RegistryClient(given) as client, pytest.raises(RegistryError, match=r"not trusted: .*mismatch"):
            client.manifest(at(registry))


def test_client_certificates(served: Served, options: Any, tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path / "server")
    mine, my_key = self_signed(tmp_path / "client")
    context = tls_context(cert, key, client_ca=mine)
    with FaultyRegistry({"team/app": served.layout.path}, tls=context) as registry:
        given = options(attempts=2)
        directory = certs_d(given.home, registry.host)
        (directory / "ca.crt").write_bytes(cert.read_bytes())
        with RegistryClient(given) as client, pytest.raises(RegistryError):
            client.manifest(at(registry))
        (directory / "client.cert").write_bytes(mine.read_bytes())
        (directory / "client.key").write_bytes(my_key.read_bytes())
        with RegistryClient(given) as client:
            assert client.manifest(at(registry))[0] == served.image.manifest


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"ca.crt": b"no certificate"}, "certificates cannot be read from .*ca.crt"),
        ({"client.cert": b"x"}, "client certificate .*client.cert' has no key 'client.key'"),
        ({"client.key": b"x"}, "has no client certificate 'client.cert'"),
        ({"client.cert": b"x", "client.key": b"y"}, "client.cert' is unusable"),
    ],
)
def test_broken_certs_d(secure: FaultyRegistry, options: Any, files: dict[str, bytes], says: str) -> None:
    given = options()
    directory = certs_d(given.home, secure.host)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    with RegistryClient(given) as client, pytest.raises(ConfigError, match=says) as caught:
        client.manifest(at(secure))
    assert str(caught.value).isprintable()


def test_tls_is_not_left(
    secure: FaultyRegistry, options: Any, served: Served, make_mirror: Callable[..., Any]
) -> None:
    plain = make_mirror()
    digest = served.manifest.layers[0].digest
    secure.fault("/blobs/", "redirect", target=f"{plain.url}/v2/team/app/blobs/{digest}")
    with RegistryClient(options(insecure=("*",))) as client:
        with pytest.raises(ProtocolError, match="it leaves TLS"):
            b"".join(client.blob(at(secure), served.manifest.layers[0]))
    assert plain.requests() == []


def test_a_loopback_registry_with_tls_is_found_out(
    secure: FaultyRegistry, options: Any, served: Served, tmp_path: Path
) -> None:
    """No certs.d says so: plain HTTP is tried first, and the answer tells."""
    bundle = str(tmp_path / "server" / "cert.pem")
    with RegistryClient(options(environ={"REQUESTS_CA_BUNDLE": bundle}, attempts=1)) as client:
        assert client.manifest(at(secure))[0] == served.image.manifest
        assert client.schemes(client.conf.endpoints(at(secure))[0]) == ("https",)
