"""pull, images, tags, tag, rmi, inspect of images, store, info, doctor, version."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Served
from tests.support.images import Layout
from tests.support.registry import FaultyRegistry
from tests.support.tls import self_signed, tls_context
from tests.support.udk import Udk


def test_pull_by_tag_and_digest(new_udk: Udk, served: Served) -> None:
    digest = served.images["1"].digest
    assert new_udk.ok("pull", served.box) == f"{digest}  {served.box}\n"
    by_digest = f"{served.registry.host}/test/box@{digest}"
    assert new_udk.ok("pull", "-q", by_digest) == by_digest + "\n"
    raw = new_udk("inspect", "--raw", by_digest).out
    assert raw == served.images["1"].manifest and f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest
    assert new_udk.ok("run", by_digest, "echo", "x") == "x\n"
    assert new_udk.ok("run", f"{served.box}@{digest}", "echo", "y") == "y\n"


def test_pull_policies(new_udk: Udk, served: Served) -> None:
    assert "is not in the store" in new_udk.fails("run", "--pull=never", served.box, "true")
    new_udk.ok("run", "--pull=missing", served.box, "true")
    served.registry.clear()
    new_udk.ok("run", served.box, "true")
    assert served.registry.requests() == []
    new_udk.ok("run", "--pull", "always", served.box, "true")
    assert len(served.registry.requests("/manifests/")) >= 1 and served.registry.requests("/blobs/") == []
    new_udk.ok("run", served.box, "true", env={"UDK_PULL": "always"})
    assert "is wrong" in new_udk.fails("run", served.box, "true", env={"UDK_PULL": "perhaps"})


def test_images(udk: Udk, served: Served) -> None:
    text = udk.ok("images")
    assert f"\n{served.box} " in text and served.images["1"].digest not in text
    assert served.images["1"].digest in udk.ok("images", "--digests")
    rows = json.loads(udk.ok("images", "--json"))
    assert {r["familiar"] for r in rows} == {served.box, served.entry}
    config = hashlib.sha256(served.images["1"].config).hexdigest()
    (row,) = json.loads(udk.ok("images", "--json", served.box))
    assert row["id"] == f"sha256:{config}" and row["digest"] == served.images["1"].digest
    assert row["size"] == served.images["1"].size and row["tag"] == "1"
    assert len(json.loads(udk.ok("images", "--json", f"{served.registry.host}/test/box"))) == 2
    assert udk.ok("images", "-q", served.box) == config[:12] + "\n"
    assert udk.ok("images", "-q", "--no-trunc", served.box) == f"sha256:{config}\n"
    assert json.loads(udk.ok("images", "--json", "nosuch")) == []


def test_tags(udk: Udk, served: Served) -> None:
    name = f"{served.registry.host}/test/box"
    assert udk.ok("tags", name) == "1\nentry\nmulti\n"
    assert json.loads(udk.ok("tags", "--json", name)) == {"name": name, "tags": ["1", "entry", "multi"]}
    assert "udk: error" in udk.fails("tags", f"{served.registry.host}/no/such")
    assert "not in a registry" in udk.fails("tags", "oci:/tmp")


def test_tag_and_rmi(new_udk: Udk, served: Served) -> None:
    new_udk.ok("pull", "-q", served.box)
    new_udk.ok("tag", served.box, "mine:v1")
    assert new_udk.ok("run", "mine:v1", "echo", "x") == "x\n"
    short = new_udk.ok("images", "-q").split()[0]
    assert new_udk.ok("rmi", "mine:v1") == "Untagged: mine:v1\n"
    assert len(json.loads(new_udk.ok("images", "--json"))) == 1
    assert new_udk.ok("rmi", short) == f"Untagged: {served.box}\n"
    assert json.loads(new_udk.ok("images", "--json")) == []
    assert os.listdir(new_udk.store / "oci/blobs/sha256") == [] and os.listdir(new_udk.store / "trees") == []
    assert "no image" in new_udk.fails("rmi", served.box)
    assert "cannot be a tag" in new_udk.fails("tag", served.box, "oci:/x")


def test_rmi_of_a_running_image(new_udk: Udk, served: Served) -> None:
    process = new_udk.popen("run", served.box, "sh", "-c", "echo up; exec sleep 100", stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"up\n"
    assert "is used by running container" in new_udk.fails("rmi", served.box)
    assert "is used by running container" in new_udk.fails("rmi", "-f", served.box)
    process.terminate()
    assert process.wait(10) == 143
    process.stdout.close()
    new_udk.ok("rmi", served.box)


def test_inspect_image(udk: Udk, served: Served) -> None:
    (described,) = json.loads(udk.ok("inspect", served.entry))
    assert described["Config"]["Entrypoint"] == ["/bin/echo", "entry"] and described["Os"] == "linux"
    assert described["RepoTags"] == [served.entry] and len(described["RootFS"]["Layers"]) == 2
    assert [d["Id"] for d in json.loads(udk.ok("inspect", served.box, served.entry))][1] == described["Id"]
    assert json.loads(udk.ok("inspect", "--type", "image", described["Id"][7:19]))[0]["Id"] == described["Id"]
    assert "no container and no image" in udk.fails("inspect", "nosuch")
    assert "no container" in udk.fails("inspect", "--type=container", served.box)
    assert Path(udk.ok("inspect", "--lower", served.box).strip(), "bin/sh").is_symlink()


def test_store_commands(new_udk: Udk, served: Served) -> None:
    assert new_udk.ok("store", "path") == f"{new_udk.store}\n"
    assert json.loads(new_udk.ok("store", "path", "--json")) == str(new_udk.store)
    new_udk.ok("pull", "-q", served.box)
    assert new_udk.ok("store", "fsck") == "clean\n"
    assert json.loads(new_udk.ok("store", "fsck", "--fast", "--json")) == {"clean": True, "problems": []}
    by_name = {u["category"]: u for u in json.loads(new_udk.ok("store", "df", "--json"))}
    assert by_name["blobs"]["bytes"] > 0 and by_name["trees"]["count"] == 1
    assert "total" in new_udk.ok("store", "df")
    ref = json.loads(new_udk.ok("inspect", served.box))[0]["Udk"]["Digest"]
    blob = new_udk.store / "oci/blobs/sha256" / ref[7:]
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes() + b" ")
    done = new_udk("store", "fsck", "--json")
    assert done.status == 1 and not done.json["clean"]
    assert new_udk("store", "fsck", "--repair").status == 0
    new_udk.ok("pull", "-q", served.box)
    assert new_udk.ok("store", "fsck", "-q") == ""
    new_udk.ok("rmi", "--no-prune", served.box)
    assert json.loads(new_udk.ok("store", "gc", "-n", "--json"))["freed"] > 0
    assert "freed" in new_udk.ok("store", "gc") and new_udk.ok("store", "gc", "-q").startswith("freed 0 B")
    assert "no such action" in new_udk.fails("store", "burn")


def test_a_tree_made_before_there_was_an_index_gets_it_by_a_pull(new_udk: Udk, box: str) -> None:
    new_udk.ok("pull", "-q", box)
    (index,) = new_udk.store.glob("trees/*/index")
    kept = index.stat().st_size
    index.unlink()
    assert new_udk.ok("run", "-q", "--rm", box, "true") == ""  # it is not needed
    assert not index.exists()
    new_udk.ok("pull", "-q", box)
    assert index.stat().st_size == kept
    data = index.read_bytes()
    index.write_bytes(b"UDKIDX\0\1" + data[8:])  # of an older version
    assert new_udk.ok("run", "-q", "--rm", box, "ls", "/etc")
    assert "index" in str(new_udk("store", "fsck"))
    new_udk.ok("pull", "-q", box)
    assert index.read_bytes()[:8] == data[:8]
    assert "index" not in new_udk.ok("store", "fsck")


def test_other_stores_and_configuration(new_udk: Udk, udk: Udk, box: str, tmp_path: Path) -> None:
    assert new_udk.ok("run", "--pull=never", box, "echo", "x", env={"UDK_STORES": str(udk.store)}) == "x\n"
    config = tmp_path / "c.toml"
    config.write_text(f'[store]\nothers = ["{udk.store}"]\n[pull]\npolicy = "never"\n')
    assert new_udk.ok("--config", str(config), "run", box, "echo", "x") == "x\n"
    config.write_text("[store]\nother = 1\n")
    assert "there is no setting store.other" in new_udk.fails("--config", str(config), "images")
    assert "is not a file" in new_udk.fails("--config", "/no/such", "images")
    elsewhere = tmp_path / "elsewhere"
    assert new_udk.ok("--store", str(elsewhere), "store", "path") == f"{elsewhere}\n"
    assert (elsewhere / "version").exists()


def test_info_version_doctor(udk: Udk, box: str) -> None:
    facts = json.loads(udk.ok("info", "--json"))
    assert facts["store"] == str(udk.store) and facts["images"] == 2 and facts["scratch"] == str(udk.scratch)
    assert f"store:      {udk.store}" in udk.ok("info")
    assert udk.ok("version") == udk.ok("-V") and json.loads(udk.ok("version", "--json"))["version"]
    rows = json.loads(udk.ok("doctor", "--json"))
    assert rows[0]["engine"] == "namespace" and rows[0]["works"] and rows[0]["reason"] == ""
    assert "works, is used" in udk.ok("doctor", "--engine", "N1")
    assert "no engine" in udk.fails("doctor", "--engine", "nosuch")


@pytest.mark.parametrize("engine", ["namespace", "trap", "ptrace", "preload", "runc"])
def test_doctor_runs_the_embedded_image(new_udk: Udk, engine: str) -> None:
    done = new_udk("doctor", "--run", "--json", "--engine", engine)
    if not done.json[0]["works"]:
        pytest.skip(done.json[0]["reason"])
    assert done.status == 0 and done.error == ""
    assert done.json[0]["run"]["status"] == 0 and "from a container of udk" in done.json[0]["run"]["output"]
    assert new_udk.leftovers() == []


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, -15), (signal.SIGINT, -2), (signal.SIGHUP, -1)])
def test_a_pull_that_is_ended(new_udk: Udk, served: Served, number: int, status: int) -> None:
    served.registry.clear()
    served.registry.fault("/blobs/", "slow", rate=50_000)
    process = new_udk.popen("pull", served.box, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not served.registry_is_busy(new_udk.store) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    served.registry.clear()
    assert (process.returncode, out, err) == (status, b"", b"")
    assert new_udk("store", "fsck").text.endswith("clean\n")
    new_udk.ok("pull", served.box)


def test_a_reader_that_goes_away(udk: Udk) -> None:
    words = " ".join(f"'{w}'" for w in udk.argv("images", "--json"))
    script = f"set -o pipefail; {words} | true"
    for _ in range(3):
        done = subprocess.run(["bash", "-c", script], env=udk.environ(), stderr=subprocess.PIPE)
        assert done.returncode in (0, 141) and done.stderr == b""


def test_full_stdout(udk: Udk) -> None:
    with open("/dev/full", "wb") as full:
        done = udk("images", stdout=full)
    assert done.status == 125 and done.error == "udk: error: stdout: No space left on device\n"


def test_login(new_udk: Udk, served: Served) -> None:
    host = served.registry.host
    served.registry.require_basic("me", "s3cret")
    try:
        assert "udk: error" in new_udk.fails("pull", served.box)
        assert "udk: error" in new_udk.fails("login", "-u", "me", "-p", "wrong", host)
        assert not list(new_udk.home.rglob("auth.json"))
        done = new_udk("login", "-u", "me", "--password-stdin", host, input=b"s3cret\n")
        assert done.status == 0 and done.error == "" and done.text.startswith(f"logged in to {host}")
        (auth,) = new_udk.home.rglob("auth.json")
        assert auth.stat().st_mode & 0o777 == 0o600
        new_udk.ok("pull", served.box)
        assert new_udk.ok("logout", host) == f"logged out of {host}\n"
        assert new_udk.ok("logout", host) == f"not logged in to {host}\n"
        other = new_udk.base / "auth"
        new_udk.ok("login", "-u", "me", "-p", "s3cret", "--authfile", str(other), host)
        assert host in other.read_text()
        assert new_udk.ok("logout", "--all", "--authfile", str(other)) == f"logged out of {host}\n"
        assert "needs --username" in new_udk.fails("login", "--password-stdin", host, input=b"x")
        assert "stdin is not a terminal" in new_udk.fails("login", host)
        assert "exclude each other" in new_udk.fails("login", "-u", "a", "-p", "b", "--password-stdin", host)
    finally:
        served.registry.scheme = ""


def test_platforms(new_udk: Udk, served: Served) -> None:
    new_udk.ok("pull", "--platform", "linux/arm64", served.multi)
    assert [r["platform"] for r in json.loads(new_udk.ok("images", "--json"))] == ["linux/arm64"]
    assert (
        new_udk.ok("run", "--platform=linux/arm64", "--pull=never", served.multi, "cat", "/arch") == "arm64"
    )
    assert "not in the store" in new_udk.fails("run", "--pull=never", served.multi, "true")
    assert new_udk.ok("run", served.multi, "sh", "-c", "ls /arch 2>/dev/null || echo amd64") == "amd64\n"
    rows = json.loads(new_udk.ok("images", "--json"))
    assert {r["platform"] for r in rows} == {"linux/amd64", "linux/arm64"}
    assert "linux/s390x" in new_udk.fails("pull", "--platform", "linux/s390x", served.multi)
    assert "udk: error" in new_udk.fails("run", "--platform", "nonsense/x/y/z", served.multi, "true")
    assert new_udk.ok("rmi", served.multi).count("Untagged") == 2


def test_insecure(new_udk: Udk, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add_image([{"f": "x"}], "1")
    with FaultyRegistry({"a": layout.path}, tls=tls_context(*self_signed(tmp_path / "cert"))) as registry:
        image = f"{registry.host}/a:1"
        assert "certificate" in new_udk.fails("pull", image)
        new_udk.ok("--insecure", "pull", image)
        new_udk.ok("pull", image, env={"UDK_INSECURE": registry.host})
        assert new_udk.ok("--insecure", "tags", f"{registry.host}/a") == "1\n"


def test_login_asks_on_a_terminal(new_udk: Udk, served: Served) -> None:
    """The user name with echo, the password without."""
    import pty

    served.registry.require_basic("me", "s3cret")
    pid, master = pty.fork()
    if pid == 0:
        os.execve(new_udk.python, new_udk.argv("login", served.registry.host), new_udk.environ())  # noqa: S606
    seen = b""
    answers = [(b"Username", b"me\n"), (b"Password", b"s3cret\n")]
    try:
        while True:
            try:
                chunk = os.read(master, 4096)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
            if answers and answers[0][0] in seen:
                time.sleep(0.2)  # until the terminal's echo is off
                os.write(master, answers.pop(0)[1])
        assert os.waitpid(pid, 0)[1] == 0, seen
        assert b"logged in to" in seen and b"me\r\n" in seen and b"s3cret" not in seen
    finally:
        os.close(master)
        served.registry.scheme = ""
