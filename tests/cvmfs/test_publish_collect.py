"""Garbage collection: what kept revisions need stays, everything else goes, at any moment of being killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cvmfs_client.cli import main
from cvmfs_client.errors import ConfigError, UsageError
from cvmfs_client.publish import Options, PublishError, RepositoryKeys, collect, publish, renew_whitelist
from tests.cvmfs import plainreader
from tests.cvmfs.test_publish import FQRN, age, make_tree


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("keys"))
    RepositoryKeys.create(directory, FQRN)
    return directory


class History:
    """A repository of five revisions, the second tagged."""

    def __init__(self, tmp: Path, keys: str, **options: object) -> None:
        self.tree, self.repository, self.keys = tmp / "tree", tmp / "repo", keys
        make_tree(self.tree)
        self.roots = []
        for i in range(5):
            (self.tree / "dir0" / "file1").write_bytes(b"revision %d" % i * 1000)
            (self.tree / "nested" / f"only{i}").write_bytes(os.urandom(5000))
            if i:
                (self.tree / "nested" / f"only{i - 1}").unlink()
            age(self.tree)
            result = publish(
                str(self.tree), str(self.repository), fqrn=FQRN, keys=keys, tag="keep" if i == 1 else "",
                options=Options(reread=True, chunk_size=4096, **options),  # type: ignore[arg-type]
            )  # fmt: skip
            self.roots.append(result.root_hash)

    def objects(self) -> set[str]:
        return {str(p) for p in (self.repository / "data").rglob("*") if p.is_file()}

    def readable(self) -> list[bool]:
        found = []
        for root in self.roots:
            try:
                plainreader.entries(self.repository, root)
                found.append(True)
            except FileNotFoundError:
                found.append(False)
        return found

    def collect(self, **options: object):  # type: ignore[no-untyped-def]
        return collect(str(self.repository), keys=self.keys, **options)  # type: ignore[arg-type]


def test_only_what_is_needed_stays(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys)
    before = made.objects()
    planned = made.collect(days=0, dry_run=True)
    assert made.objects() == before
    result = made.collect(days=0)
    assert result.removed_objects == planned.removed_objects > 4
    assert (result.kept_revisions, result.removed_revisions) == (3, 2)
    assert made.readable() == [False, True, False, True, True]
    assert len(made.objects()) == result.kept_objects
    # nothing is left that could go
    again = made.collect(days=0)
    assert (again.removed_objects, again.removed_revisions) == (0, 0)
    log = (made.repository / ".cvmfsreflog").read_bytes()
    fields = plainreader.manifest_fields(made.repository)
    assert fields["Y"] == plainreader.digest(log) and fields["S"] == "5"
    refs = {h.decode(): t for h, t in plainreader.database(log).execute("SELECT hash, type FROM refs")}
    assert {h for h, t in refs.items() if t == 0} == {made.roots[i] for i in (1, 3, 4)}
    assert [h for h, t in refs.items() if t == 2] == [fields["H"]]


def test_recent_revisions_stay(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys)
    assert made.collect().removed_revisions == 0
    assert made.readable() == [True] * 5


def test_tags_can_be_forgotten(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys)
    made.collect(days=0, remove_tags=["keep"])
    assert made.readable() == [False, False, False, True, True]
    assert set(plainreader.tags(made.repository)) == {"trunk", "trunk-previous"}
    with pytest.raises(UsageError, match="no tag 'keep'"):
        made.collect(days=0, remove_tags=["keep"])
    with pytest.raises(UsageError, match="head"):
        made.collect(remove_tags=["trunk"])


def test_publishing_goes_on_after_a_collection(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys)
    made.collect(days=0)
    (made.tree / "new").write_text("new")
    result = publish(
        str(made.tree), str(made.repository), fqrn=FQRN, keys=keys, options=Options(chunk_size=4096)
    )
    assert result.revision == 6
    assert plainreader.entries(made.repository)[b"/new"]["content"] == b"new"


def test_refusals(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys, garbage_collectable=False)
    before = made.objects()
    with pytest.raises(UsageError, match="not marked"):
        made.collect(days=0)
    with pytest.raises(PublishError, match="no repository"):
        collect(str(tmp_path), keys=keys)
    assert made.objects() == before


@pytest.mark.parametrize("days", [float("nan"), float("inf"), -1.0, 1e12])
def test_durations_that_cannot_be(tmp_path: Path, keys: str, days: float) -> None:
    made = History(tmp_path, keys)
    before = made.objects()
    with pytest.raises(UsageError, match="days cannot be"):
        made.collect(days=days)
    with pytest.raises(UsageError, match="days cannot be"):
        renew_whitelist(str(made.repository), keys=keys, days=days)
    assert made.objects() == before


@pytest.mark.parametrize(
    "wrong",
    [
        Options(level=99),
        Options(ttl=-1),
        Options(ttl=1 << 31),
        Options(catalog_entries=-5),
        Options(owner=(1 << 32, 0)),
        Options(whitelist_days=1e300),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, keys: str, wrong: Options) -> None:
    with pytest.raises(UsageError, match=r"cannot be|no level"):
        publish(str(tmp_path), str(tmp_path / FQRN), fqrn=FQRN, keys=keys, options=wrong)
    assert not (tmp_path / FQRN).exists()


def test_a_damaged_catalog_stops_everything(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys)
    name = made.roots[1]
    path = made.repository / "data" / name[:2] / (name[2:] + "C")
    path.write_bytes(path.read_bytes()[:-1])
    before = made.objects()
    with pytest.raises(PublishError, match="damaged"):
        made.collect(days=0)
    assert made.objects() == before


def test_killed_collections_leave_nothing_broken(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys)
    script = (
        f"from cvmfs_client.publish import collect; collect({str(made.repository)!r}, keys={keys!r}, days=0)"
    )
    top = str(Path(__file__).resolve().parents[2])
    generator = random.Random(4)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": top})
        time.sleep(generator.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert [made.readable()[i] for i in (1, 3, 4)] == [True] * 3
        refs = (
            sqlite3.connect(made.repository / ".cvmfsreflog")
            .execute("SELECT hash FROM refs WHERE type=0")
            .fetchall()
        )
        for (name,) in refs:
            assert (made.repository / "data" / name[:2] / f"{name[2:]}C").exists()
    made.collect(days=0)
    assert made.readable() == [False, True, False, True, True]


def test_whitelists_are_renewed(tmp_path: Path, keys: str) -> None:
    made = History(tmp_path, keys)
    renew_whitelist(str(made.repository), keys=keys, days=400)
    expiry = (made.repository / ".cvmfswhitelist").read_bytes().split(b"\n")[1].decode()
    assert expiry > "E" + time.strftime("%Y%m%d%H%M%S", time.gmtime(time.time() + 399 * 86400))
    lesser = tmp_path / "lesser"
    lesser.mkdir()
    for suffix in (".key", ".crt"):
        (lesser / (FQRN + suffix)).write_bytes((Path(keys) / (FQRN + suffix)).read_bytes())
    with pytest.raises(ConfigError, match="master key"):
        renew_whitelist(str(made.repository), keys=str(lesser))
    # publishing without the master key works while the whitelist holds
    (made.tree / "x").write_text("x")
    assert publish(str(made.tree), str(made.repository), fqrn=FQRN, keys=str(lesser)).revision == 6


def test_the_command_line(tmp_path: Path, keys: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = History(tmp_path, keys)
    assert main(["collect", str(made.repository), "--keys", keys, "--days", "0", "--dry-run"]) == 0
    assert "could be removed" in capsys.readouterr().out
    assert made.readable() == [True] * 5
    arguments = [
        "collect",
        str(made.repository),
        "--keys",
        keys,
        "--days",
        "0",
        "--remove-tag",
        "keep",
        "--json",
    ]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["removed_revisions"] == 3
    assert made.readable() == [False, False, False, True, True]
    assert main(["resign", str(made.repository), "--keys", keys, "--days", "100"]) == 0
    assert "100 days" in capsys.readouterr().out
    assert main(["collect", str(tmp_path), "--keys", keys]) == 1
    assert "no repository" in capsys.readouterr().err
