"""Against Debian's docker-registry, with images that skopeo pushed: plain, and TLS with htpasswd."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

from tests.support.images import Image, Layout
from tests.support.needs import find, needs
from udk.archive.source import RegistrySource, resolve_image
from udk.base.verified import VerifiedReader
from udk.errors import AuthError, NotFoundError
from udk.oci.digest import Digest
from udk.oci.manifest import parse_config
from udk.oci.platform import Platform
from udk.oci.reference import Reference
from udk.registry.client import RegistryClient
from udk.registry.login import login

pytestmark = [needs("docker-registry", "skopeo"), pytest.mark.slow]


class Real(NamedTuple):
    host: str
    layout: Layout
    image: Image
    index: str

    def ref(self, tail: str) -> Reference:
        return Reference.parse(f"{self.host}/{tail}")


def run(*argv: str) -> bytes:
    ran = subprocess.run(argv, capture_output=True, timeout=120)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout


def start(directory: Path, extra: str = "") -> tuple[subprocess.Popen[bytes], str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    conf = directory / "config.yml"
    conf.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{extra}"
    )
    program = find("docker-registry")
    assert program
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(conf)], stdout=log, stderr=log, cwd=directory)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None, (directory / "log").read_text()
            time.sleep(0.05)
    return process, f"127.0.0.1:{port}"


def made_images(path: Path) -> tuple[Layout, Image, str]:
    layout = Layout(path)
    image = layout.add_image(
        [{"bin/a": b"\0" * 100_000}, {"etc/b": "b"}, {"c": "c"}], "one", compression=["gzip", "zstd", ""]
    )
    arm = layout.add_image([{"arm": "1"}], listed=False, config={"architecture": "arm64"})
    platforms: list[tuple[Image, dict[str, str]]] = [
        (image, {"os": "linux", "architecture": "amd64"}),
        (arm, {"os": "linux", "architecture": "arm64", "variant": "v8"}),
    ]
    return layout, image, layout.add_index(platforms, "multi")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    directory = tmp_path_factory.mktemp("registry")
    process, host = start(directory)
    try:
        layout, image, index = made_images(directory / "layout")
        for name, target in (("one", "team/app:1"), ("multi", "team/multi:latest")):
            run("skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests",
                "--dest-tls-verify=false", f"oci:{layout.path}:{name}",
                f"docker://{host}/{target}")  # fmt: skip
        yield Real(host, layout, image, index)
    finally:
        process.kill()
        process.wait()


def pulled(client: RegistryClient, ref: Reference, platform: str = "amd64") -> tuple[str, list[bytes]]:
    source = RegistrySource(ref, client)
    found = resolve_image(source, Platform.parse(platform))

    def blob(d: Any) -> bytes:
        return VerifiedReader(source.blob(d), d.digest.algorithm, d.digest.hex, d.size).read()

    parse_config(blob(found.manifest.config), found.manifest)
    return str(found.top_digest), [blob(layer) for layer in found.manifest.layers]


def test_an_image(plain: Real, options: Any) -> None:
    with RegistryClient(options()) as client:
        assert pulled(client, plain.ref("team/app:1")) == (plain.image.digest, plain.image.layers)
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{plain.host}/team/app:1")
        assert client.manifest(plain.ref("team/app:1"))[0] == raw
        by_digest = plain.ref(f"team/app@{plain.image.digest}")
        assert client.manifest(by_digest)[0] == raw
        assert client.resolve(plain.ref("team/app:1")) == Digest.parse(plain.image.digest)


def test_an_index(plain: Real, options: Any) -> None:
    with RegistryClient(options()) as client:
        assert pulled(client, plain.ref("team/multi"))[0] == plain.index
        assert len(pulled(client, plain.ref("team/multi"), "linux/arm64/v8")[1]) == 1


def test_ranges(plain: Real, options: Any) -> None:
    with RegistryClient(options()) as client:
        ref = plain.ref("team/app:1")
        layer = resolve_image(RegistrySource(ref, client), Platform.parse("amd64")).manifest.layers[0]
        assert b"".join(client.blob(ref, layer, 50)) == plain.image.layers[0][50:]
        assert b"".join(client.blob(ref, layer, layer.size - 1)) == plain.image.layers[0][-1:]


def test_tags(plain: Real, options: Any) -> None:
    for n in range(5):
        run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{plain.layout.path}:one",
            f"docker://{plain.host}/team/tagged:v{n}")  # fmt: skip
    with RegistryClient(options()) as client:
        found = client.tags(plain.ref("team/tagged"))
        listed = run("skopeo", "list-tags", "--tls-verify=false", f"docker://{plain.host}/team/tagged")
        assert sorted(found) == sorted(json.loads(listed)["Tags"])


def test_what_is_not_there(plain: Real, options: Any) -> None:
    with RegistryClient(options()) as client:
        with pytest.raises(NotFoundError, match="manifest unknown"):
            client.manifest(plain.ref("team/app:none"))
        with pytest.raises(NotFoundError, match=r"manifest unknown|name unknown"):
            client.manifest(plain.ref("none:1"))
        with pytest.raises(NotFoundError, match="name"):
            client.tags(plain.ref("none"))


def test_what_skopeo_converts(plain: Real, options: Any, tmp_path: Path) -> None:
    """Docker's own media types, as docker push writes them."""
    layout = Layout(tmp_path / "gzip")
    layout.add_image([{"a": "1"}, {"b": "2"}, {"c": "3"}], "1")
    run("skopeo", "--insecure-policy", "copy", "--format", "v2s2", "--dest-tls-verify=false",
        f"oci:{layout.path}:1", f"docker://{plain.host}/team/docker:1")  # fmt: skip
    with RegistryClient(options()) as client:
        _, media_type, _ = client.manifest(plain.ref("team/docker:1"))
        assert media_type == "application/vnd.docker.distribution.manifest.v2+json"
        assert len(pulled(client, plain.ref("team/docker:1"))[1]) == 3


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Real, Path]]:
    """TLS by openssl, users by htpasswd."""
    directory = tmp_path_factory.mktemp("private")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem", "-subj",
        "/CN=registry",
        "-addext", "subjectAltName=IP:127.0.0.1")  # fmt: skip
    (directory / "htpasswd").write_bytes(run("htpasswd", "-Bbn", "user", "secret"))
    process, host = start(
        directory,
        f"  tls: {{certificate: {directory}/cert.pem, key: {directory}/key.pem}}\n"
        f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n",
    )
    try:
        layout, image, index = made_images(directory / "layout")
        run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", "user:secret",
            "--preserve-digests", f"oci:{layout.path}:one", f"docker://{host}/team/app:1")  # fmt: skip
        yield Real(host, layout, image, index), directory / "cert.pem"
    finally:
        process.kill()
        process.wait()


def trusting(options: Any, host: str, cert: Optional[Path]) -> Any:
    given = options()
    if cert:
        target = Path(given.home) / ".config" / "containers" / "certs.d" / host
        target.mkdir(parents=True)
        (target / "ca.crt").write_bytes(cert.read_bytes())
    return given


@needs("openssl", "htpasswd")
@pytest.mark.parametrize("known", [True, False])
def test_tls_and_htpasswd(private: tuple[Real, Path], options: Any, known: bool) -> None:
    """With its certificate in certs.d, and where only a bundle names it: then HTTP's answer leads to TLS."""
    real, cert = private
    given = trusting(options, real.host, cert if known else None)
    if not known:
        given.environ = {**given.environ, "REQUESTS_CA_BUNDLE": str(cert)}
    with RegistryClient(given) as client, pytest.raises(AuthError, match=f"udk login {real.host}"):
        client.manifest(real.ref("team/app:1"))
    with pytest.raises(AuthError):
        login(real.host, "user", "wrong", given)
    login(real.host, "user", "secret", given)
    with RegistryClient(given) as client:
        assert pulled(client, real.ref("team/app:1")) == (real.image.digest, real.image.layers)
