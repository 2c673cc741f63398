"""The command: what it prints and how it ends. Run as a program, as users do."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cvmfs_client.cli.arguments import VERBS
from cvmfs_client.cli.common import locations, parse_location, parse_size, size_text
from cvmfs_client.errors import UsageError
from tests.cvmfs.conftest import FQRN, Published

PROGRAM = "import sys; sys.argv[0] = 'cvmfs'; from cvmfs_client.cli import main; sys.exit(main())"


class Command:
    """`cvmfs` with a cache of its own and the published repository's server and key."""

    def __init__(self, published: Published, top: Path) -> None:
        self.published = published
        self.top = top
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(top),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, *words: str, status: int = 0, repository: bool = True, **more: Any) -> Any:
        options = ["--cache", str(self.top / "cache")]
        if repository:
            options += ["--server", self.published.url, "--key", self.published.public_key]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, words[0], *options, *words[1:]],
            capture_output=True,
            env=self.environ,
            cwd=self.top,
            timeout=120,
            **more,
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done

    def text(self, *words: str, **more: Any) -> str:
        done = self.run(*words, **more)
        assert done.stderr == b"" or more.get("status"), done.stderr
        return done.stdout.decode("utf-8", "surrogateescape")  # type: ignore[no-any-return]

    def json(self, *words: str, **more: Any) -> Any:
        return json.loads(self.run(*words, "--json", **more).stdout)


@pytest.fixture
def cvmfs(published: Published, tmp_path: Path) -> Command:
    return Command(published, tmp_path)


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_ls(cvmfs: Command) -> None:
    assert lines(cvmfs.text("ls", FQRN)) == [
        "README",
        "big",
        "bin",
        "empty",
        "hard",
        "links",
        "nested",
        "odd",
        "pipe",
    ]
    assert lines(cvmfs.text("ls", f"{FQRN}:/bin/tool", f"/cvmfs/{FQRN}/hard")) == [
        f"{FQRN}:/bin/tool",
        f"/cvmfs/{FQRN}/hard:",
        "a",
        "b",
        "",
    ]
    assert lines(cvmfs.text("ls", "-a", FQRN, "/nested")) == [".cvmfscatalog", "alpha", "beta"]
    long = lines(cvmfs.text("ls", "-l", "-n", f"cvmfs://{FQRN}/links"))
    assert any(line.startswith("lrwxrwxrwx") and line.endswith("chain -> relative") for line in long)
    assert f"{os.getuid()}" in long[0]
    assert lines(cvmfs.text("ls", "-l", f"{FQRN}:/bin"))[0].startswith("-rwxr-xr-x   1 ")
    recursive = lines(cvmfs.text("ls", "-R", f"{FQRN}:/nested"))
    assert f"{FQRN}:/nested/beta/deep:" in recursive
    rows = {row["path"]: row for row in cvmfs.json("ls", f"{FQRN}:/")}
    assert rows["/README"]["size"] == 8 and rows["/bin"]["type"] == "d" and rows["/pipe"]["type"] == "p"


def test_names_that_are_no_text(cvmfs: Command) -> None:
    """Bytes come out as they are; JSON can tell them."""
    out = cvmfs.run("ls", f"{FQRN}:/odd").stdout
    assert b"bad\xff\xfeutf8\n" in out and b"new\nline\n" in out
    names = {row["path"] for row in cvmfs.json("ls", f"{FQRN}:/odd")}
    assert "/odd/new\nline" in names and os.fsdecode(b"/odd/bad\xff\xfeutf8") in names
    found = cvmfs.run("find", f"{FQRN}:/odd", "-0").stdout.split(b"\0")
    assert f"{FQRN}:/odd/bad".encode() + b"\xff\xfeutf8" in found


def test_cat(cvmfs: Command) -> None:
    assert cvmfs.run("cat", f"{FQRN}:/README", f"{FQRN}:/hard/a").stdout == b"read me\nsame\n"
    big = cvmfs.run("cat", f"{FQRN}:/big", "--offset", "65530", "--length", "12").stdout
    assert big == (cvmfs.published.tree / "big").read_bytes()[65530:65542]
    done = cvmfs.run("cat", f"{FQRN}:/none", f"{FQRN}:/README", status=1)
    assert done.stdout == b"read me\n"
    assert done.stderr == b"cvmfs: error: /none: No such file or directory\n"


def test_a_reader_that_goes_away(cvmfs: Command) -> None:
    command = f'{sys.executable} -c "{PROGRAM}" cat --cache c --server {cvmfs.published.url} '
    command += (
        f"--key {cvmfs.published.public_key} {FQRN}:/big | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=cvmfs.environ, cwd=cvmfs.top)
    assert done.stderr == b""
    assert done.stdout.strip() in (b"141", b"0")


def test_stat(cvmfs: Command) -> None:
    text = cvmfs.text("stat", f"{FQRN}:/README")
    assert "Size: 8" in text and "regular file" in text and "Hash: " in text
    assert "Chunks: 7" in cvmfs.text("stat", f"{FQRN}:/big")
    (row,) = cvmfs.json("stat", f"{FQRN}:/links/chain")
    assert row["type"] == "l" and row["target"] == "relative"
    (row,) = cvmfs.json("stat", "-L", f"{FQRN}:/links/chain")
    assert row["type"] == "f" and row["catalog"] == "/"
    header, values = lines(cvmfs.text("stat", FQRN))
    assert header.startswith("VERSION PID UPTIME(M) MEM(K) REVISION EXPIRES(M) NOCATALOGS")
    assert len(header.split()) == len(values.split()) == 19
    assert f"Connection: {cvmfs.published.url} through proxy DIRECT (online)" in cvmfs.text(
        "stat", "-v", FQRN
    )


def test_find(cvmfs: Command) -> None:
    assert set(lines(cvmfs.text("find", f"{FQRN}:/nested", "-name", "file"))) == {
        f"{FQRN}:/nested/alpha/deep/file",
        f"{FQRN}:/nested/beta/deep/file",
    }
    assert lines(cvmfs.text("find", f"{FQRN}:/", "-type", "p")) == [f"{FQRN}:/pipe"]
    assert lines(cvmfs.text("find", f"{FQRN}:/", "--size", "+100k")) == [f"{FQRN}:/big"]
    assert lines(cvmfs.text("find", f"{FQRN}:/nested", "-maxdepth", "1", "--type", "d")) == [
        f"{FQRN}:/nested",
        f"{FQRN}:/nested/alpha",
        f"{FQRN}:/nested/beta",
    ]
    assert cvmfs.text("find", f"{FQRN}:/", "--newer", "2099-01-01") == ""
    assert len(cvmfs.json("find", FQRN)) == 35


def test_tree(cvmfs: Command) -> None:
    assert lines(cvmfs.text("tree", f"{FQRN}:/nested")) == [
        f"{FQRN}:/nested",
        "|-- .cvmfscatalog",
        "|-- alpha",
        "|   `-- deep",
        "|       `-- file",
        "`-- beta",
        "    |-- .cvmfscatalog",
        "    `-- deep",
        "        `-- file",
    ]
    assert lines(cvmfs.text("tree", "-d", "-L", "1", f"{FQRN}:/nested"))[1:] == ["|-- alpha", "`-- beta"]
    node = cvmfs.json("tree", f"{FQRN}:/nested")
    assert [c["path"] for c in node["children"]] == ["/nested/.cvmfscatalog", "/nested/alpha", "/nested/beta"]


def test_du(cvmfs: Command) -> None:
    files = [p.lstat() for p in cvmfs.published.tree.rglob("*")]
    inodes = {st.st_ino: st.st_size for st in files if stat.S_ISREG(st.st_mode)}
    expected = sum(inodes.values())
    assert lines(cvmfs.text("du", "-s", f"{FQRN}:/")) == [f"{expected}\t{FQRN}:"]
    rows = cvmfs.json("du", f"{FQRN}:/nested")
    assert [r["path"] for r in rows][-1] == "/nested" and rows[-1]["bytes"] == 27 and rows[-1]["files"] == 4
    assert len(rows) == 5
    assert len(lines(cvmfs.text("du", "-d", "1", f"{FQRN}:/nested"))) == 3


def test_cp(cvmfs: Command) -> None:
    top = cvmfs.top
    cvmfs.run("cp", f"{FQRN}:/README", "copy")
    assert (top / "copy").read_text() == "read me\n"
    cvmfs.run("cp", f"{FQRN}:/links/chain", f"{FQRN}:/empty", str(top))
    assert (top / "chain").read_text() == "read me\n" and not (top / "chain").is_symlink()
    assert b"Is a directory" in cvmfs.run("cp", f"{FQRN}:/bin", "x", status=1).stderr
    cvmfs.run("cp", "-a", f"{FQRN}:/", "all")
    done = subprocess.run(
        ["diff", "-r", "--no-dereference", str(cvmfs.published.tree), str(top / "all")], capture_output=True
    )
    # of links only the one with a variable differs
    text = [t for t in done.stdout.splitlines() if b"variant" not in t and not t.startswith(b"File")]
    assert text == [], done.stdout
    local, source = (top / "all" / "hard" / "a").stat(), (cvmfs.published.tree / "hard" / "a").stat()
    assert local.st_nlink == 2 and local.st_mtime_ns == source.st_mtime_ns
    assert stat.S_ISFIFO((top / "all" / "pipe").lstat().st_mode)
    cvmfs.run("cp", "-r", f"{FQRN}:/", "all")  # into the directory that is there
    assert (top / "all" / FQRN / "README").exists()
    assert not list(top.rglob(".part-*"))


def test_cp_names_the_place_that_is_missing(cvmfs: Command) -> None:
    done = cvmfs.run("cp", "-r", f"{FQRN}:/", "/nonexistent/copy", status=1)
    assert b"/nonexistent/copy" in done.stderr


def test_cp_reports_what_failed(cvmfs: Command) -> None:
    identity = next(r["hash"] for r in cvmfs.json("stat", f"{FQRN}:/bin/tool"))
    cvmfs.published.server.fault(f"/data/{identity[:2]}/{identity[2:]}", "flip")
    done = cvmfs.run("cp", "-r", f"{FQRN}:/", "all", status=35)
    assert b"/bin/tool" in done.stderr and done.stderr.count(b"\n") == 1
    assert not (cvmfs.top / "all" / "bin" / "tool").exists()
    assert (cvmfs.top / "all" / "README").read_text() == "read me\n"


def test_tags_and_diff(own_published: Published, tmp_path: Path) -> None:
    cvmfs = Command(own_published, tmp_path)
    (own_published.tree / "README").write_text("second\n")
    (own_published.tree / "new").touch()
    (own_published.tree / "bin" / "tool").unlink()
    own_published.publish(tag="second")
    assert lines(cvmfs.text("tags", FQRN))[0].split()[:2] == ["NAME", "REVISION"]
    names = {t["name"]: t for t in cvmfs.json("tags", FQRN)}
    assert {"first", "second"} <= set(names)
    expected = {"M /README  (content, size, time)", "A /new", "D /bin/tool"}
    assert expected <= set(lines(cvmfs.text("diff", FQRN, "first", "second")))
    assert expected <= set(lines(cvmfs.text("diff", FQRN, names["first"]["root_hash"])))
    rows = cvmfs.json("diff", FQRN, "1", "HEAD")
    assert {"change": "added", "path": "/new", "new_size": 0} in rows
    assert cvmfs.json("diff", FQRN, "first", "first") == []
    assert cvmfs.json("diff", "--stat", FQRN, "second", "first")["removed"] == 1
    assert cvmfs.run("diff", FQRN, "nonsense", status=22).stderr.startswith(b"cvmfs: error: there is no tag")
    assert cvmfs.text("cat", "--tag", "first", f"{FQRN}:/README") == "read me\n"
    assert cvmfs.text("cat", "--root-hash", names["first"]["root_hash"], f"{FQRN}:/README") == "read me\n"


def test_info_probe_reload(cvmfs: Command) -> None:
    text = cvmfs.text("info", FQRN)
    assert "State:           as on the server" in text and "Nested catalogs: 2" in text
    assert cvmfs.json("info", FQRN)["statistics"]["entries"] == 35
    assert cvmfs.text("probe", FQRN) == f"Probing /cvmfs/{FQRN}... OK\n"
    assert cvmfs.text("reload", FQRN).startswith(f"{FQRN}: revision 1 of ")
    done = cvmfs.run("probe", "other.example.org", status=31)
    assert b"Failed!" in done.stdout
    assert cvmfs.json("probe", FQRN, "other.example.org", status=1)[1]["status"] == 31
    cvmfs.published.server.fault(".cvmfspublished", "drop")
    done = cvmfs.run("reload", "-o", "CVMFS_MAX_RETRIES=0", FQRN, status=1)
    assert b"revision 1" in done.stdout and b"kept: " in done.stdout


def test_a_choice_of_servers_is_kept_for_all(cvmfs: Command) -> None:
    """`host switch` would mean little if only the process that does it heeded it."""
    good, other = cvmfs.published.url, cvmfs.published.url.replace("127.0.0.1", "localhost")
    both = ["--server", f"{good};{other}"]

    def active() -> Any:
        return next(h["url"] for h in cvmfs.json("host", "info", FQRN, *both)["hosts"] if h["active"])

    assert active() == good
    assert "Kept for 1800 s" in cvmfs.text("host", "switch", FQRN, *both)
    assert active() == other
    # another configuration: the choice is about other servers
    assert cvmfs.json("host", "info", FQRN)["hosts"] == [
        {"url": good, "rtt_ms": None, "geo": None, "active": True}
    ]
    cvmfs.run("host", "reset", FQRN, *both)
    assert active() == good
    cvmfs.run("host", "set", other, FQRN, *both)
    assert [h["url"] for h in cvmfs.json("host", "info", FQRN, *both)["hosts"]] == [other]
    # it ends by itself
    place = cvmfs.top / "cache" / "state" / FQRN / "choices"
    kept = json.loads(place.read_text())
    kept["hosts"]["until"] -= 1801
    place.write_text(json.dumps(kept))
    assert active() == good
    place.write_bytes(b'{"hosts": [7]}')
    assert active() == good


def test_a_choice_of_proxies_is_kept_for_all(cvmfs: Command) -> None:
    proxies = ["--proxy", "DIRECT;http://127.0.0.1:9"]
    assert "Kept for 300 s" in cvmfs.text("proxy", "group", "switch", FQRN, *proxies)
    groups = cvmfs.json("proxy", "info", FQRN, *proxies)["proxies"]
    assert [g[0]["url"] for g in groups] == ["http://127.0.0.1:9", "DIRECT"]
    cvmfs.run("proxy", "reset", FQRN, *proxies)
    groups = cvmfs.json("proxy", "info", FQRN, *proxies)["proxies"]
    assert [g[0]["url"] for g in groups] == ["DIRECT", "http://127.0.0.1:9"]
    assert "there is no `proxy dance`" in cvmfs.run("proxy", "dance", FQRN, status=2).stderr.decode()


def test_an_alien_cache_cannot_choose_the_server(cvmfs: Command) -> None:
    alien = cvmfs.top / "alien"
    (alien / "state" / FQRN).mkdir(parents=True)
    row = {"value": ["http://127.0.0.1:9"], "configured": [cvmfs.published.url], "until": time.time() + 900}
    (alien / "state" / FQRN / "choices").write_text(json.dumps({"hosts": row}))
    options = ["-o", f"CVMFS_ALIEN_CACHE={alien}", "--server", cvmfs.published.url]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, "host", "info", FQRN, "--json", *options,
         "--key", cvmfs.published.public_key],
        env=cvmfs.environ, capture_output=True, check=True,
    )  # fmt: skip
    assert [h["url"] for h in json.loads(found.stdout)["hosts"]] == [cvmfs.published.url]


def test_talk(cvmfs: Command) -> None:
    def talk(words: str, **more: Any) -> str:
        return cvmfs.text("talk", "-i", FQRN, *words.split(), **more)

    assert talk("revision").strip() == str(cvmfs.json("info", FQRN)["revision"])
    assert talk("mountpoint") == f"/cvmfs/{FQRN}\n"
    assert talk("cache size").startswith("Current cache size is ")
    assert " catalog " in talk("cache list catalogs") and " file " not in talk("cache list catalogs")
    assert talk("cache limit get").startswith("Quota limit is ")
    assert "Active host 0: " in talk("host info") and "Active proxy: DIRECT" in talk("proxy info")
    assert "Kept for" not in talk("host probe")
    assert talk("timeout info") == "Timeout with proxy: 5\nTimeout without proxy: 10\n"
    assert "/ (hash: " in talk("open catalogs")
    assert "objects pinned" in talk("pin /README") and "README" in talk("cache list pinned")
    assert "objects evicted" in talk("evict /README")
    assert "freed" in talk("cleanup 0")
    assert "CVMFS_SERVER_URL=" in talk("parameters")
    assert "revision" in talk("remount sync")
    for words, text in (("drop metadata caches", "mounted client"), ("dance", "there is no `talk dance`")):
        done = cvmfs.run("talk", "-i", FQRN, *words.split(), status=2)
        assert text in done.stderr.decode()


def test_host_and_proxy(cvmfs: Command) -> None:
    text = cvmfs.text("host", "info", FQRN)
    assert lines(text)[:2] == [
        f"[0] {cvmfs.published.url} (unprobed)",
        f"Active host 0: {cvmfs.published.url}",
    ]
    assert " ms)" in cvmfs.text("host", "probe", FQRN)
    assert "Active proxy: DIRECT" in cvmfs.text("proxy", "info", FQRN)
    assert cvmfs.json("host", "info", FQRN)["online"] is True


def test_showconfig_and_chksetup(cvmfs: Command) -> None:
    place = cvmfs.top / ".config" / "cvmfs" / "config.d"
    place.mkdir(parents=True)
    (place / f"{FQRN}.conf").write_text(
        f"CVMFS_SERVER_URL={cvmfs.published.server.url}/cvmfs/@fqrn@\nCVMFS_HTTP_PROXY=DIRECT\n"
        f"CVMFS_PUBLIC_KEY={cvmfs.published.public_key}\n"
    )
    text = lines(cvmfs.text("showconfig", FQRN, repository=False))
    assert text[0] == f"CVMFS_REPOSITORY_NAME={FQRN}"
    assert f"CVMFS_SERVER_URL={cvmfs.published.url}    # from {place}/{FQRN}.conf" in text
    assert text[1:] == sorted(text[1:], key=lambda t: t.partition("=")[0])
    assert "CVMFS_BLACKLIST=" in text
    assert "CVMFS_BLACKLIST=" not in cvmfs.text("showconfig", "-s", FQRN, repository=False)
    assert cvmfs.text("chksetup", FQRN, repository=False) == "OK\n"
    assert cvmfs.text("cat", f"{FQRN}:/README", repository=False) == "read me\n"
    with open(place / f"{FQRN}.conf", "a") as f:
        f.write(
            'CVMFS_SERVER_URL="not a url"\nCVMFS_TIMEOUT=x\nCVMFS_TYPO=1\nCVMFS_HTTP_PROXY="squid|DIRECT"\n'
        )
    found = cvmfs.text("chksetup", FQRN, repository=False, status=1)
    for part in (
        "'not a url' in CVMFS_SERVER_URL",
        "CVMFS_TIMEOUT=x",
        "CVMFS_TYPO is not a known",
        "squid has no port",
    ):
        assert part in found
    with open(place / f"{FQRN}.conf", "a") as f:
        f.write("X=$(hostname)\n")
    done = cvmfs.run("ls", FQRN, repository=False, status=2)
    assert f"{FQRN}.conf:8: commands in $( )" in done.stderr.decode()


def test_cache(cvmfs: Command) -> None:
    cvmfs.run("prefetch", f"{FQRN}:/nested", f"{FQRN}:/big")
    (row,) = cvmfs.json("stat-cache", f"{FQRN}:/nested")
    assert row["files"] == row["files_cached"] == 4 and row["bytes"] == row["bytes_cached"] == 27
    assert "Current cache size is 0MB (" in cvmfs.text("cache", "status", repository=False)
    rows = cvmfs.json("cache", "list", repository=False)
    assert {"/big", "/nested/beta/deep/file"} <= {r["path"] for r in rows}
    assert cvmfs.json("cache", "fsck", repository=False)["bad"] == []
    assert cvmfs.json("cache", "evict", f"{FQRN}:/nested/beta")["objects"] == 1
    (row,) = cvmfs.json("stat-cache", f"{FQRN}:/nested")
    assert row["files_cached"] < 4
    cvmfs.run("cache", "pin", f"{FQRN}:/big")
    assert any(r["pinned"] for r in cvmfs.json("cache", "list", repository=False))
    cvmfs.run("cache", "gc", "--limit", "0", repository=False)
    (row,) = cvmfs.json("stat-cache", f"{FQRN}:/big")
    assert row["files_cached"] == 1
    cvmfs.run("cache", "unpin", f"{FQRN}:/big")
    cvmfs.run("cache", "gc", "--limit", "0", repository=False)
    assert b"offline" in cvmfs.run("stat-cache", "--offline", f"{FQRN}:/big", status=30).stderr


def test_info_without_a_network(cvmfs: Command) -> None:
    cvmfs.text("ls", FQRN)
    told = cvmfs.run("info", "--offline", FQRN)
    text = told.stdout.decode()
    assert "kept from earlier" in text and "Warning:" in text and "meta information" in text, told


def test_prefetch_list(cvmfs: Command) -> None:
    (cvmfs.top / "list").write_text(
        f"/README\n# comment\n/cvmfs/{FQRN}/hard/a\n/cvmfs/other.example.org/x\n\n"
    )
    assert "2 files" in cvmfs.text("prefetch", "--from", "list", FQRN)
    assert "2 objects" in cvmfs.text("prefetch", "--catalogs", FQRN)


def test_publish_and_read(cvmfs: Command) -> None:
    tree = cvmfs.top / "tree"
    tree.mkdir()
    (tree / "hello").write_text("hello\n")
    words = [
        "publish",
        str(tree),
        str(cvmfs.top / "www" / "new.example.org"),
        "--keys",
        str(cvmfs.top / "keys"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, "--json"], capture_output=True, env=cvmfs.environ, check=True
    )
    assert json.loads(done.stdout)["revision"] == 1
    server = ["--server", f"file://{cvmfs.top}/www/new.example.org", "--key", str(cvmfs.top / "keys")]
    assert cvmfs.text("cat", *server, "new.example.org:/hello", repository=False) == "hello\n"


# --- how it ends


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["nonsense"], 2, "there is no command 'nonsense'"),
        (["ls"], 2, "LOCATION"),
        (["ls", "--nope", FQRN], 2, "unrecognized arguments: --nope"),
        (["ls", ":/x"], 2, "does not name a repository"),
        (["ls", "a b:/x"], 2, "is not the name of a repository"),
        (["cat", "--offset", "x", FQRN], 2, "invalid int value"),
        (["ls", "-o", "nonsense", FQRN], 2, "write -o NAME=VALUE"),
        (["ls", "--tag", "none", FQRN], 22, "there is no tag 'none'"),
        (["cat", f"{FQRN}:/none"], 1, "/none: No such file or directory"),
        (["ls", "other.example.org"], 31, f"manifest of '{FQRN}' instead of other.example.org"),
        (["find", "--size", "big", FQRN], 2, "is not a size"),
        (["cache", "nonsense"], 2, "invalid choice"),
    ],
)
def test_errors_are_one_line(cvmfs: Command, words: list[str], status: int, text: str) -> None:
    done = (
        cvmfs.run(*words, status=status)
        if words[0] in VERBS
        else cvmfs.run(*words, status=status, repository=False)
    )
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.startswith("cvmfs: error: ") and message.count("\n") == 1 and text in message


def test_interruption(cvmfs: Command) -> None:
    cvmfs.published.server.fault("/data/", "hang")
    words = ["cat", "--cache", "c", "--server", cvmfs.published.url, "--key", cvmfs.published.public_key]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words, f"{FQRN}:/README"],
        env=cvmfs.environ,
        cwd=cvmfs.top,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    import time

    deadline = time.monotonic() + 20
    while not cvmfs.published.server.paths(".cvmfspublished") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    cvmfs.published.server.clear()
    assert process.returncode == -signal.SIGINT
    assert out == b"" and err == b""


def test_help(cvmfs: Command) -> None:
    text = _plain(cvmfs, "--help")
    assert all(f"  {verb} " in text for verb in VERBS)
    for verb in VERBS:
        assert _plain(cvmfs, "help", verb).startswith("usage: cvmfs " + verb)
    assert _plain(cvmfs, "--version").startswith("cvmfs")


def _plain(cvmfs: Command, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, env=cvmfs.environ, check=True, text=True
    )
    return done.stdout


def test_as_a_verb_of_udk(cvmfs: Command) -> None:
    program = "import sys; sys.argv[0] = '/usr/bin/udk'; from udk.cli.main import main; sys.exit(main())"
    words = [
        "cvmfs",
        "cat",
        "--cache",
        "c",
        "--server",
        cvmfs.published.url,
        "--key",
        cvmfs.published.public_key,
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *words, f"{FQRN}:/README"],
        capture_output=True,
        env=cvmfs.environ,
        cwd=cvmfs.top,
    )
    assert (done.returncode, done.stdout) == (0, b"read me\n"), done.stderr
    done = subprocess.run(
        [sys.executable, "-c", program, *words, f"{FQRN}:/none"],
        capture_output=True,
        env=cvmfs.environ,
        cwd=cvmfs.top,
    )
    assert (done.returncode, done.stderr) == (1, b"udk cvmfs: error: /none: No such file or directory\n")


# --- locations


@pytest.mark.parametrize(
    ("text", "fqrn", "path"),
    [
        ("a.b", "a.b", "/"),
        ("a.b:/x", "a.b", "/x"),
        ("a.b:x/y", "a.b", "/x/y"),
        ("a.b/x", "a.b", "/x"),
        ("/cvmfs/a.b", "a.b", "/"),
        ("/cvmfs/a.b/x:y", "a.b", "/x:y"),
        ("cvmfs://a.b/x", "a.b", "/x"),
        ("a.b:", "a.b", "/"),
    ],
)
def test_locations(text: str, fqrn: str, path: str) -> None:
    assert parse_location(text)[:2] == (fqrn, path)


def test_paths_after_a_bare_name() -> None:
    found = [(w.fqrn, w.path) for w in locations(["a.b", "/x", "/y", "c.d", "e.f:/z", "/cvmfs/g.h/i"])]
    assert found == [("a.b", "/x"), ("a.b", "/y"), ("c.d", "/"), ("e.f", "/z"), ("g.h", "/i")]
    for bad in ("", "/", ":x", "/cvmfs/", "/x"):
        with pytest.raises(UsageError):
            parse_location(bad)


def test_sizes() -> None:
    assert parse_size("10") == 10 and parse_size("1.5k") == 1536 and parse_size("2GiB") == 2 << 30
    assert [size_text(n, True) for n in (999, 1536, 10 << 20, 5 << 40)] == ["999", "1.5K", "10M", "5.0T"]
    for bad in ("", "x", "-1", "1x"):
        with pytest.raises(UsageError):
            parse_size(bad)
