"""Our own registry server: what the distribution-spec says about pulling."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Optional

import pytest

from tests.support.images import Layout
from tests.support.needs import needs
from tests.support.registry import FaultyRegistry


def get(
    url: str, headers: Optional[dict[str, str]] = None, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as e:
        return e.code, dict(e.headers), e.read()


def test_serves_manifests_blobs_and_ranges(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image = layout.add_image([{"a": b"x" * 5000}], "1")
    with FaultyRegistry({"team/app": tmp_path}) as registry:
        base = f"{registry.url}/v2/team/app"
        assert get(f"{registry.url}/v2/")[0] == 200
        for selector in ("1", image.digest):
            status, headers, body = get(f"{base}/manifests/{selector}")
            assert (status, body) == (200, image.manifest)
            assert headers["Content-Type"] == image.media_type
            assert headers["Docker-Content-Digest"] == image.digest
        for digest, data in image.blobs.items():
            assert get(f"{base}/blobs/{digest}")[2] == data
            status, headers, body = get(f"{base}/blobs/{digest}", {"Range": "bytes=10-19"})
            assert (status, body) == (206, data[10:20])
            assert headers["Content-Range"] == f"bytes 10-19/{len(data)}"
            assert get(f"{base}/blobs/{digest}", {"Range": "bytes=10-"})[2] == data[10:]
            assert get(f"{base}/blobs/{digest}", {"Range": "bytes=-7"})[2] == data[-7:]
            assert get(f"{base}/blobs/{digest}", {"Range": f"bytes={len(data)}-"})[0] == 416
            status, headers, body = get(f"{base}/blobs/{digest}", method="HEAD")
            assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/", "/v2/none/manifests/1", "/v2/team/app/manifests/2", "/v2/team/app/what/1",
        "/v2/team/app/blobs/sha256:../../index.json", "/v2/team/app/blobs/md5:0",
        "/v2/team/app/blobs/sha256:" + "0" * 64,
    ],
)  # fmt: skip
def test_answers_404(tmp_path: Path, path: str) -> None:
    Layout(tmp_path).add_image([{"a": "b"}], "1")
    with FaultyRegistry({"team/app": tmp_path}) as registry:
        status, _, body = get(registry.url + path)
        assert status == 404
        assert json.loads(body)["errors"][0]["code"]
        assert get(f"{registry.url}{path}", method="DELETE")[0] == 405


def test_pages_tags(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for tag in ("c", "a", "b", "d"):
        layout.add_image([{"f": tag}], tag)
    with FaultyRegistry({"app": tmp_path}) as registry:
        _status, headers, body = get(f"{registry.url}/v2/app/tags/list?n=3")
        assert json.loads(body) == {"name": "app", "tags": ["a", "b", "c"]}
        assert headers["Link"] == '</v2/app/tags/list?n=3&last=c>; rel="next"'
        _, headers, body = get(f"{registry.url}/v2/app/tags/list?n=3&last=c")
        assert json.loads(body)["tags"] == ["d"]
        assert "Link" not in headers


@needs("skopeo")
def test_skopeo_copies_from_it(tmp_path: Path) -> None:
    import subprocess

    layout = Layout(tmp_path / "layout")
    image = layout.add_image([{"a": "1"}, {"b": "2"}], "1")
    with FaultyRegistry({"app": layout.path}) as registry:
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{registry.host}/app:1",
             f"oci:{tmp_path}/copy:1"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    assert (tmp_path / "copy" / "blobs" / "sha256" / image.digest[7:]).read_bytes() == image.manifest
