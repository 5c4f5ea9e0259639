"""The manifest makes a data set exist, and vouches for what is in it."""

from __future__ import annotations

import json

import pytest

from sightline.methods.errors import CallError
from sightline.platform.data.manifest import Manifest, Shard, fingerprint, parse_manifest


def _shard(name: str = "pairs-00000.parquet", sha: str = "a" * 64, groups: tuple[int, ...] = (64, 36)) -> Shard:
    return Shard(name=name, rows=sum(groups), bytes=1000, sha256=sha, row_groups=groups)


def _manifest(*shards: Shard) -> Manifest:
    return Manifest(
        kind="pairs", rows=sum(s.rows for s in shards), columns=("id",), shards=shards, fingerprint=fingerprint("pairs", shards)
    )


def test_a_manifest_survives_writing_and_reading() -> None:
    manifest = _manifest(_shard())
    assert parse_manifest(manifest.to_json(), "here") == manifest


def test_the_fingerprint_tells_content_order_and_row_groups_apart() -> None:
    a, b = _shard(), _shard("pairs-00001.parquet", "b" * 64)
    prints = {
        fingerprint("pairs", [a, b]),
        fingerprint("pairs", [b, a]),
        fingerprint("pairs", [a]),
        fingerprint("images", [a, b]),
        fingerprint("pairs", [_shard(groups=(50, 50)), b]),
    }
    assert len(prints) == 5
    assert fingerprint("pairs", [a]) == fingerprint("pairs", [_shard("renamed.parquet")])


@pytest.mark.parametrize("name", ["../evil.parquet", "/etc/x.parquet", "a/b.parquet", ".parquet", "x.pkl"])
def test_a_shard_name_never_leaves_the_folder(name: str) -> None:
    raw = json.loads(_manifest(_shard()).to_json())
    raw["shards"][0]["name"] = name
    with pytest.raises(CallError, match=r"not a valid manifest"):
        parse_manifest(json.dumps(raw), "here")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rows": 99}, "do not add up"),
        ({"fingerprint": "0" * 64}, "altered"),
        ({"kind": "videos"}, "pairs"),
        ({"colour": 1}, "Extra"),
    ],
)
def test_an_inconsistent_manifest_is_refused_with_the_reason(change: dict[str, object], word: str) -> None:
    raw = json.loads(_manifest(_shard()).to_json()) | change
    with pytest.raises(CallError, match=word):
        parse_manifest(json.dumps(raw), "here")


def test_a_newer_schema_asks_for_a_newer_sightline() -> None:
    raw = json.loads(_manifest(_shard()).to_json()) | {"schema_version": 3}
    with pytest.raises(CallError, match="schema version 3; this Sightline reads up to 2") as caught:
        parse_manifest(json.dumps(raw), "here")
    assert "upgrade" in caught.value.hint


def test_data_sets_made_before_arrays_had_a_form_of_their_own_keep_their_fingerprint() -> None:
    assert fingerprint("points", [_shard("p.parquet")]) == "59ce5b679249338068b35f5fddb2fc3a0cc3835a166c6958bcc3f7d3433d7a4e"
    assert fingerprint("points", [_shard()], ("a", "b"), None, ("x",)) == "84ef1aea3e50a90945c3b89befcaac644d41bc727fcc286b9f403984a56d0f15"
    assert fingerprint("points", [_shard()], schema_version=2) != fingerprint("points", [_shard("p.parquet")])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(CallError, match="not a valid manifest"):
        parse_manifest(text, "here")
