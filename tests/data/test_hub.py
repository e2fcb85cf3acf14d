"""The hub by repository and commit, against a local stand-in: proofs, no half files, no moving revisions."""

import hashlib
import json

import pytest
from tests.data.pack import benv2_like
from tests.data.serve import serve

from swath.core import UserError
from swath.data.sources.hub import HubConfig

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = b'name = "x"\n'


def site(data, proof=None, path="a/benv2.tortilla"):
    base = f"/datasets/o/n/resolve/{COMMIT}/"
    blob = hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest()
    rows = [
        {"type": "directory", "path": "a"},
        {"type": "file", "path": path, "oid": "0", "lfs": {"oid": proof or hashlib.sha256(data).hexdigest()}},
        {"type": "file", "path": "card.toml", "oid": blob},
    ]
    return {
        f"/api/datasets/o/n/tree/{COMMIT}": lambda h: (json.dumps(rows).encode(), 200),
        base + "a/benv2.tortilla": lambda h: (data, 200),
        base + "card.toml": lambda h: (CARD, 200),
    }


def config(server, tmp_path, **more):
    layout = {"kind": "tortilla", "path": "a/benv2.tortilla"}
    return HubConfig("o/n", COMMIT, layout, endpoint=server.url, cache=str(tmp_path / "c"), **more)


def test_fetched_once_and_proved(tmp_path):
    data = benv2_like(3)
    with serve(tmp_path, hooks=site(data)) as server:
        source = config(server, tmp_path).build()
        assert len(source) == 3 and source.sample(0).layers["sentinel2-l2a"].shape[2] == 12
        first = len(server.asked)
        config(server, tmp_path, files={"a/benv2.tortilla": hashlib.sha256(data).hexdigest()}).build()
        assert len(server.asked) == first, "pinned by hand and there: nothing is asked"
        kept = next((tmp_path / "c").rglob("benv2.tortilla"))
        kept.write_bytes(b"damaged")
        assert len(config(server, tmp_path).build()) == 3, "a damaged file is fetched again"


def test_another_file_than_announced_is_refused_and_nothing_kept(tmp_path):
    with (
        serve(tmp_path, hooks=site(benv2_like(1), proof="0" * 64)) as server,
        pytest.raises(UserError, match="not the one announced"),
    ):
        config(server, tmp_path).build()
    assert not [p for p in (tmp_path / "c").rglob("*") if p.is_file()]


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:-1]])
def test_a_revision_that_can_move_is_refused(tmp_path, revision):
    with pytest.raises(UserError, match="can move"):
        HubConfig("o/n", revision, {"kind": "folder"}, cache=str(tmp_path)).build()


def test_a_path_out_of_the_cache_is_refused(tmp_path):
    with (
        serve(tmp_path, hooks=site(benv2_like(1), path="../../evil")) as server,
        pytest.raises(UserError, match="no path inside"),
    ):
        config(server, tmp_path).build()


def test_what_is_not_there_or_gated_is_named(tmp_path):
    hooks = site(benv2_like(1))
    hooks[f"/datasets/o/n/resolve/{COMMIT}/a/benv2.tortilla"] = lambda h: (b"", 403)
    with serve(tmp_path, hooks=hooks) as server, pytest.raises(UserError, match="403") as caught:
        config(server, tmp_path).build()
    assert "HF_TOKEN" in caught.value.remedy


def test_offline_is_respected(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        HubConfig("o/n", COMMIT, {"kind": "folder"}, cache=str(tmp_path), endpoint="http://hub.invalid").build()


def test_the_token_goes_to_the_hub_alone(monkeypatch):
    from swath.data.hub import ENDPOINT, _request

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert _request(f"{ENDPOINT}/x").unredirected_hdrs == {"Authorization": "Bearer secret"}
    for url in ("https://evil.example/x", "http://127.0.0.1:1/x"):
        assert "Authorization" not in {**_request(url).headers, **_request(url).unredirected_hdrs}
