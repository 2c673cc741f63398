"""Image configs: resolved the way docker does, refused where they contradict themselves; chain IDs."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udk.errors import IntegrityError, InvalidImageError, UdkError
from udk.oci import mediatypes as mt
from udk.oci.config import ImageConfig, chain_ids, parse_config, signal_number
from udk.oci.digest import Digest, digest_of
from udk.oci.manifest import Manifest, parse_manifest

DIFF = ["sha256:" + c * 64 for c in "abc"]


def document(run: Any = None, **changes: Any) -> bytes:
    made = {
        "created": "2024-01-01T00:00:00Z", "architecture": "amd64", "os": "linux", "config": run,
        "rootfs": {"type": "layers", "diff_ids": DIFF}, "history": [{"empty_layer": True}], **changes,
    }  # fmt: skip
    return json.dumps({k: v for k, v in made.items() if v != "GONE"}).encode()


def parsed(run: Any = None, **changes: Any) -> ImageConfig:
    return parse_config(document(run, **changes))


def test_everything() -> None:
    config = parsed(
        {
            "User": "app:staff", "Env": ["PATH=/usr/bin", "A=b=c", "EMPTY=", "MULTI=a\nb", "A=last",
                    "NOVALUE"],
            "Entrypoint": ["/init", ""], "Cmd": ["sh", "-c", "x y"], "WorkingDir": "/srv//app/../web/",
            "Volumes": {"/data": {}, "/b/": {}}, "Labels": {"k": "v"}, "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT", "Shell": ["/bin/bash", "-c"], "Healthcheck": {"Test": ["NONE"]},
        }
    )  # fmt: skip
    assert config.user == "app:staff"
    assert dict(config.env) == {"PATH": "/usr/bin", "A": "last", "EMPTY": "", "MULTI": "a\nb"}
    assert (config.entrypoint, config.cmd) == (("/init", ""), ("sh", "-c", "x y"))
    assert (config.working_dir, config.volumes) == ("/srv/web", ("/b", "/data"))
    assert (config.stop_signal, config.shell) == (3, ("/bin/bash", "-c"))
    assert (dict(config.labels), config.exposed_ports) == ({"k": "v"}, ("80/tcp",))
    assert str(config.platform) == "linux/amd64"
    assert [str(d) for d in config.diff_ids] == DIFF
    assert config.image_id == digest_of(config.raw)


@pytest.mark.parametrize(
    "run", [None, {}, {"Env": None, "Cmd": None, "Entrypoint": [], "Volumes": None, "User": ""}]
)
def test_nothing_given(run: Any) -> None:
    config = parsed(run)
    assert (dict(config.env), config.entrypoint, config.cmd, config.user) == ({}, None, None, "")
    assert (config.working_dir, config.stop_signal, config.volumes) == ("/", 0, ())


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("", "/"), ("/", "/"), ("//", "/"), ("/a/", "/a"), ("//a", "/a"), ("/../../a", "/a"),
     ("/a/../../b", "/b"),
     ("/a/./b", "/a/b"), ("/with space", "/with space")],
)  # fmt: skip
def test_working_dir(given_text: str, expected: str) -> None:
    assert parsed({"WorkingDir": given_text}).working_dir == expected


@pytest.mark.parametrize(
    "user", ["", "root", "0", "0:0", "1000:", "www-data:www-data", "4294967294", "D\\u", "a@b"]
)
def test_users(user: str) -> None:
    assert parsed({"User": user}).user == user


INVALID: list[tuple[str, bytes, str]] = [
    ("Entrypoint as a string", document({"Entrypoint": "/bin/sh -c x"}), "'Entrypoint' must be a list"),
    ("Cmd as a string", document({"Cmd": "sh"}), "'Cmd' must be a list"),
    ("Cmd of numbers", document({"Cmd": ["sleep", 1]}), "'Cmd' must be a list of strings"),
    ("NUL in Cmd", document({"Cmd": ["a\0b"]}), "'Cmd' holds a NUL"),
    ("Env an object", document({"Env": {"A": "b"}}), "'Env' must be a list"),
    ("Env without a name", document({"Env": ["=x"]}), "'=x' is not an environment variable"),
    ("Env with a newline in a name", document({"Env": ["A\nB=x"]}), "is not an environment variable"),
    ("Env with an escape in a name", document({"Env": ["\x1b[31m=x"]}), "is not an environment variable"),
    ("Env with NUL", document({"Env": ["A=x\0y"]}), "is not an environment variable"),
    ("Env empty", document({"Env": [""]}), "is not an environment variable"),
    ("User a path", document({"User": "root:../x"}), "'root:../x' is not a user"),
    ("User with two groups", document({"User": "a:b:c"}), "is not a user"),
    ("User with a newline", document({"User": "a\nroot"}), "is not a user"),
    ("User with a space", document({"User": "a b"}), "is not a user"),
    ("User too large", document({"User": "4294967295"}), "beyond the largest"),
    ("User a number", document({"User": 0}), "'User' must be a string"),
    (
        "WorkingDir relative",
        document({"WorkingDir": "../.."}),
        "'WorkingDir' '../..' is not an absolute path",
    ),
    ("WorkingDir with NUL", document({"WorkingDir": "/a\0"}), "is not an absolute path"),
    ("Volumes the root", document({"Volumes": {"/": {}}}), "names the root directory"),
    ("Volumes the root in disguise", document({"Volumes": {"/a/..": {}}}), "names the root directory"),
    ("Volumes relative", document({"Volumes": {"data": {}}}), "is not an absolute path"),
    ("Volumes a list", document({"Volumes": ["/data"]}), "'Volumes' must be an object"),
    ("Labels of numbers", document({"Labels": {"a": 1}}), "values of 'Labels' must be strings"),
    ("StopSignal unknown", document({"StopSignal": "SIGNOPE"}), "'SIGNOPE' is not a signal"),
    ("StopSignal 0", document({"StopSignal": "0"}), "is not a signal"),
    ("StopSignal 65", document({"StopSignal": "65"}), "is not a signal"),
    ("config a list", document([]), "'config' must be an object"),
    ("history a list of strings", document(history=["x"]), "'history' must be a list of objects"),
    ("no rootfs", document(rootfs="GONE"), "has no rootfs"),
    ("rootfs of another type", document(rootfs={"type": "base", "diff_ids": []}), "type 'base'"),
    ("rootfs without a type", document(rootfs={"diff_ids": []}), "type ''"),
    (
        "diff_ids a string",
        document(rootfs={"type": "layers", "diff_ids": DIFF[0]}),
        "'diff_ids' must be a list",
    ),
    ("diff_ids not digests", document(rootfs={"type": "layers", "diff_ids": ["x"]}), "is not a digest"),
    (
        "diff_ids by the thousand",
        document(rootfs={"type": "layers", "diff_ids": DIFF * 400}),
        "more than 1000",
    ),
    ("os a number", document(os=1), "'os' must be a string"),
    ("duplicate key", document()[:-1] + b', "os": "linux"}', "'os' appears twice"),
    ("not JSON", b"\x7fELF", "is not JSON"),
    ("not an object", b"[]", "is not a JSON object"),
    ("empty descriptor", b"{}", "has no rootfs"),
]


@pytest.mark.parametrize(("name", "data", "says"), INVALID, ids=[i[0] for i in INVALID])
def test_invalid(name: str, data: bytes, says: str) -> None:
    with pytest.raises(InvalidImageError, match=says) as caught:
        parse_config(data)
    assert str(caught.value).isprintable()


def manifest_for(data: bytes, layers: int, size: Optional[int] = None) -> Manifest:
    made = {
        "schemaVersion": 2,
        "mediaType": mt.OCI_MANIFEST,
        "config": {"mediaType": mt.OCI_CONFIG, "digest": str(digest_of(data)), "size": size or len(data)},
        "layers": [
            {"mediaType": mt.OCI_LAYER, "digest": f"sha256:{n:064x}", "size": 1} for n in range(layers)
        ],
    }
    manifest = parse_manifest(json.dumps(made).encode())
    assert isinstance(manifest, Manifest)
    return manifest


def test_against_the_manifest() -> None:
    data = document()
    assert parse_config(data, manifest_for(data, 3)).diff_ids
    for layers in (2, 4, 0):
        with pytest.raises(InvalidImageError, match=rf"lists 3 layers \(diff_ids\), the manifest {layers}"):
            parse_config(data, manifest_for(data, layers))
    with pytest.raises(IntegrityError, match="bytes, the manifest says"):
        parse_config(data, manifest_for(data, 3, len(data) + 1))
    with pytest.raises(IntegrityError, match="does not have the digest"):
        parse_config(data.replace(b"amd64", b"arm64"), manifest_for(data, 3))


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("64", 64), ("SIGRTMIN", 34), ("RTMIN+3", 37),
     ("SIGRTMAX-1", 63), ("SIGRTMAX", 64), ("WINCH", 28), ("SIGSYS", 31), ("SIGIOT", 6)],
)  # fmt: skip
def test_signals(text: str, number: int) -> None:
    import signal

    assert signal_number(text) == number
    name = text.upper() if text.upper().startswith("SIG") else "SIG" + text
    if hasattr(signal, name):
        assert getattr(signal, name) == number


@pytest.mark.parametrize(
    "text", ["", "SIG", "-1", "0", "65", "100", "TERMINATE", "RTMIN+31", "RTMAX-31", "RTMIN+", "²"]
)
def test_no_signals(text: str) -> None:
    with pytest.raises(ValueError, match="not a signal"):
        signal_number(text)


def test_chain_ids() -> None:
    ids = [Digest.parse(d) for d in DIFF]
    second = hashlib.sha256(f"{DIFF[0]} {DIFF[1]}".encode()).hexdigest()
    third = hashlib.sha256(f"sha256:{second} {DIFF[2]}".encode()).hexdigest()
    assert [str(c) for c in chain_ids(ids)] == [DIFF[0], f"sha256:{second}", f"sha256:{third}"]
    assert chain_ids([]) == []
    assert parsed().chain_id.hex == third
    with pytest.raises(InvalidImageError, match="no layers"):
        _ = parsed(rootfs={"type": "layers", "diff_ids": []}).chain_id


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "Env",
    "Cmd",
    "Entrypoint",
    "User",
    "WorkingDir",
    "Volumes",
    "Labels",
    "StopSignal",
    "Shell",
    "ExposedPorts",
]


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_config_is_more_than_an_error(run: dict[str, Any]) -> None:
    try:
        config = parsed(run)
    except UdkError as e:
        assert str(e).isprintable()
    else:
        assert config.working_dir.startswith("/")
        assert all(name for name in config.env)
