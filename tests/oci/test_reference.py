"""The grammar of image names: what is accepted, what it means, what is refused and how it says so."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.errors import InvalidReferenceError, UdkError
from udk.oci.digest import Digest
from udk.oci.reference import Reference

D256 = "sha256:" + "a" * 64
D512 = "sha512:" + "b" * 128


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("debian", "docker.io", "library/debian", "latest", ""),
        ("debian:12", "docker.io", "library/debian", "12", ""),
        ("a", "docker.io", "library/a", "latest", ""),
        ("org/img", "docker.io", "org/img", "latest", ""),
        (f"org/img@{D256}", "docker.io", "org/img", "", D256),
        (f"org/img:t@{D256}", "docker.io", "org/img", "t", D256),
        (f"img@{D512}", "docker.io", "library/img", "", D512),
        ("docker.io/debian", "docker.io", "library/debian", "latest", ""),
        ("docker.io/library/debian:12", "docker.io", "library/debian", "12", ""),
        ("index.docker.io/org/img", "docker.io", "org/img", "latest", ""),
        ("docker://quay.io/a/b:1", "quay.io", "a/b", "1", ""),
        ("docker://debian", "docker.io", "library/debian", "latest", ""),
        (f"localhost:5000/a/b:tag@{D256}", "localhost:5000", "a/b", "tag", D256),
        ("localhost/x", "localhost", "x", "latest", ""),
        ("host:5000/img:tag", "host:5000", "img", "tag", ""),
        ("127.0.0.1:5000/debian:12", "127.0.0.1:5000", "debian", "12", ""),
        ("[::1]:5000/a:1", "[::1]:5000", "a", "1", ""),
        ("[fe80::1]/a", "[fe80::1]", "a", "latest", ""),
        ("Registry/a", "Registry", "a", "latest", ""),
        ("Quay.IO/a", "quay.io", "a", "latest", ""),
        ("registry.example.com/a/b/c/d:v1.2-3_x", "registry.example.com", "a/b/c/d", "v1.2-3_x", ""),
        ("a-b.c/x__y/z-w--v.u_t", "a-b.c", "x__y/z-w--v.u_t", "latest", ""),
        ("a/b:" + "t" * 128, "docker.io", "a/b", "t" * 128, ""),
        ("dir:latest", "docker.io", "library/dir", "latest", ""),
        ("docker-daemon", "docker.io", "library/docker-daemon", "latest", ""),
    ],
)
def test_registry_names(text: str, host: str, repository: str, tag: str, digest: str) -> None:
    ref = Reference.parse(text)
    assert (ref.transport, ref.host, ref.repository, ref.tag) == ("docker", host, repository, tag)
    assert str(ref.digest or "") == digest
    assert Reference.parse(str(ref)) == ref
    assert Reference.parse(ref.familiar) == ref
    assert not ref.is_local
    assert ref.selector == (digest or tag)


@pytest.mark.parametrize(
    ("text", "transport", "path", "tag", "digest"),
    [
        ("oci:/d", "oci", "/d", "", ""),
        ("oci:/d:name", "oci", "/d", "name", ""),
        ("oci:/d:docker.io/library/x:1", "oci", "/d", "docker.io/library/x:1", ""),
        ("oci:rel/d:n", "oci", "/cwd/rel/d", "n", ""),
        ("oci:/d:@3", "oci", "/d", "@3", ""),
        (f"oci:/d@{D256}", "oci", "/d", "", D256),
        (f"oci:/d:n@{D256}", "oci", "/d", "n", D256),
        ("oci-archive:/x.tar:n", "oci-archive", "/x.tar", "n", ""),
        ("docker-archive:x.tar", "docker-archive", "/cwd/x.tar", "", ""),
        ("docker-archive:/x.tar:debian:12", "docker-archive", "/x.tar", "docker.io/library/debian:12", ""),
        ("docker-archive:/x.tar:@0", "docker-archive", "/x.tar", "@0", ""),
        ("/abs/dir", "oci", "/abs/dir", "", ""),
        ("./dir:n", "oci", "/cwd/dir", "n", ""),
        ("../dir", "oci", "/dir", "", ""),
        (".", "oci", "/cwd", "", ""),
        ("..", "oci", "/", "", ""),
        ("oci:/a@b", "oci", "/a@b", "", ""),
    ],
)
def test_local_names(text: str, transport: str, path: str, tag: str, digest: str) -> None:
    ref = Reference.parse(text, cwd="/cwd")
    assert (ref.transport, ref.path, ref.tag, str(ref.digest or "")) == (transport, path, tag, digest)
    assert (ref.host, ref.repository, ref.is_local) == ("", "", True)
    assert Reference.parse(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("Debian", "repository names are lower-case: try 'debian'"),
        ("org/Img:1", "lower-case: try 'org/img:1'"),
        ("a//b", "a part of the name is empty"),
        ("/", ""),
        ("a/", "a part of the name is empty"),
        ("..a", "is not allowed"),
        ("a/../b", "'..' is not allowed"),
        ("a..b", "is not allowed"),
        ("a___b", "is not allowed"),
        ("a_-b", "is not allowed"),
        ("-a", "is not allowed"),
        ("a-", "is not allowed"),
        ("a b", "is not allowed"),
        ("a\nb", r"a\\nb"),
        ("a\x1b[31m", r"\\x1b\[31m"),
        ("ä", "is not allowed"),
        ("a:", "'' is not a tag"),
        ("a:b:c", "'b:c' is not a tag"),
        ("a:-x", "'-x' is not a tag"),
        ("a:.x", "is not a tag"),
        ("a:x/y", "is not a port number"),
        ("a:" + "t" * 129, "is not a tag"),
        (f"a@{D256}x", "needs 64 lower-case hex digits"),
        ("a@sha256:" + "A" * 64, "needs 64 lower-case hex digits"),
        ("a@md5:" + "a" * 32, "'md5' is not supported; use sha256 or sha512"),
        ("a@sha256", "is not a digest"),
        ("a@", "is not a digest"),
        (f"a@{D256}@{D256}", "needs 64"),
        ("host:port/a", "'port' is not a port number"),
        ("host:0/a", "is not a port number"),
        ("host:65536/a", "is not a port number"),
        ("host:/a", "is not a host name"),
        ("-h.x/a", "is not a host name"),
        ("h..x/a", "is not a host name"),
        ("[::1/a", "is not a host name"),
        ("[x]:5000/a", "is not a host name"),
        ("https://quay.io/a", "leave https:// out: 'quay.io/a'"),
        ("http://h/a", "leave http:// out"),
        ("oras://quay.io/a", "transport 'oras' is not supported"),
        ("library://a/b", "transport 'library' is not supported"),
        ("dir:/tmp/x", "transport 'dir' is not supported"),
        ("containers-storage:/x", "not supported"),
        ("a" * 250 + ".io/x/y", "host name|longer than 255"),
        ("x.io/" + "a/" * 130 + "a", "longer than 255"),
        ("0" * 64, "is an image ID"),
        ("oci:", "names no path"),
        ("oci::x", "names no path"),
        ("oci:/d:", "not a valid image name"),
        ("oci:/d:@x", "not an image number"),
        ("oci:/d:a\nb", "not a valid image name"),
        (f"docker-archive:/x.tar@{D256}", "have no digest"),
        (f"docker-archive:/x.tar:a@{D256}", "have no digest"),
        ("docker-archive:/x.tar:A", "lower-case"),
    ],
)
def test_refused(text: str, says: str) -> None:
    if text == "/":
        assert Reference.parse(text).path == "/"
        return
    with pytest.raises(InvalidReferenceError, match=says) as caught:
        Reference.parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "familiar", "api_host"),
    [
        ("docker.io/library/debian:12", "debian:12", "registry-1.docker.io"),
        ("docker.io/org/x", "org/x:latest", "registry-1.docker.io"),
        ("docker.io/library/a/b", "library/a/b:latest", "registry-1.docker.io"),
        ("docker.io/foo.bar/x", "docker.io/foo.bar/x:latest", "registry-1.docker.io"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "registry-1.docker.io"),
        ("quay.io/library/x", "quay.io/library/x:latest", "quay.io"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000"),
    ],
)
def test_forms(text: str, familiar: str, api_host: str) -> None:
    ref = Reference.parse(text)
    assert (ref.familiar, ref.api_host) == (familiar, api_host)
    assert Reference.parse(familiar) == ref


def test_changes() -> None:
    ref = Reference.parse("quay.io/a:1")
    digest = Digest.parse(D256)
    assert str(ref.with_digest(digest)) == f"quay.io/a:1@{D256}"
    assert str(ref.with_digest(digest).with_tag("2")) == "quay.io/a:2"
    with pytest.raises(InvalidReferenceError):
        ref.with_tag("a/b")
    with pytest.raises(AttributeError):
        ref.tag = "x"
    assert len({ref, Reference.parse("quay.io/a:1"), ref.with_tag("2")}) == 2


WORD = st.text("abc019", min_size=1, max_size=6)
SEPARATOR = st.sampled_from(["", ".", "_", "__", "-", "--"])
COMPONENT = st.builds("".join, st.tuples(WORD, SEPARATOR, WORD))
NAME = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
HOST = st.sampled_from(["", "localhost/", "quay.io/", "h:1/", "127.0.0.1:5000/", "[::1]:80/", "docker.io/"])
TAG = st.one_of(st.just(""), st.text("aZ0_.-", max_size=20).map(lambda t: f":x{t}"))
DIGEST = st.sampled_from(["", "@" + D256, "@" + D512])


@given(HOST, NAME, TAG, DIGEST)
def test_whatever_the_grammar_allows_round_trips(host: str, name: str, tag: str, digest: str) -> None:
    if not host and "." in name.partition("/")[0]:
        host = "docker.io/"  # it would be taken for a host itself
    ref = Reference.parse(host + name + tag + digest)
    assert Reference.parse(str(ref)) == ref
    assert Reference.parse(ref.familiar) == ref
    assert ref.repository.endswith(name)


@given(st.text(max_size=60) | st.text("ab:/@.-_[]01sha256", max_size=60))
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    try:
        ref = Reference.parse(text, cwd="/")
    except UdkError as e:
        assert isinstance(e, InvalidReferenceError)
        assert str(e).isprintable()
    else:
        assert Reference.parse(str(ref)) == ref


def test_the_run_path_stays_light() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from udk.oci.reference import Reference; Reference.parse('localhost:5000/a:b')\n"
        "print(' '.join(sorted(set(sys.modules) - before)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {m for m in ran.stdout.split() if not m.startswith("udk")}
    assert loaded <= {"__future__"}
