"""A preparation that another version of Sightline began is continued: the digest of each kind of shard is what it was at commit 20429d3."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.platform.data.images import Resize
from sightline.platform.data.prepare.clouds import CloudFile, CloudFromDepth, CloudInArray, Drawn
from sightline.platform.data.prepare.found import ClassList
from sightline.platform.data.prepare.images import ImageFile
from sightline.platform.data.prepare.items import ItemRows
from sightline.platform.data.prepare.job import Output, RowSource, job_digest
from sightline.platform.data.prepare.merge import CopiedRows
from sightline.platform.data.prepare.pair_sources.frame_pairs import PairFrames
from sightline.platform.data.prepare.pair_sources.rendered import rooms
from sightline.platform.data.prepare.pairs import Pair

DRAWN = Drawn(1024, 3)
PAIR = Pair("a/1", "a", "1.jpg", "2.jpg", 0, 1, 0.5, (1.0,) * 9, None, (1.0,) * 16, "d1.png", None, 0.25)
IMAGE = ImageFile("a/1", "1.jpg", "a", 2, "m.png", ClassList(("x", "y"), 255), "d.png", 4, 0.5)
CLOUDS = (
    CloudFile("a", DRAWN, None, 1, file="a.off", parts=((1, 2),)),
    CloudInArray("b", DRAWN, None, 2, file="b.npz", points_key="xyz", part_key="part", parts=3, index=7),
    CloudFromDepth("c", DRAWN, "s", None, 3, depth="d.png", K=(1.0,) * 9),
)
SHARDS: dict[str, tuple[RowSource, str]] = {
    "pairs": (ItemRows((PAIR,), Resize(64, True, 85)), "15e5951f68c74c2f15ed88e0acae2a32350035eaad3883b937714a399327e8e5"),
    "images": (ItemRows((IMAGE,), Resize()), "e8d9b0297e03c391f71c6aed3e30af29c404e57a769ccadb10107415cb05f415"),
    "clouds": (ItemRows(CLOUDS, Resize()), "f24752e5967536d0216c9f2233f31fe198f0c6a42474e8bb5b3336ad8b0fc61e"),
    "pair_frames": (
        PairFrames("/data", "f" * 64, Resize(64, True, 85), ((0, 1, ((2, 0), (3, 1))),)),
        "2df5a516b14c2bf6dd21c7176027b91aefccdbe72c21fd5decb2180f6040474e",
    ),
    "merge": (
        CopiedRows(("/a", "/b"), ("f" * 64, "e" * 64), ((0, 0, 1), (1, 0, 0)), 128),
        "fb4dc4c66be4c3cdf63f821ccb5964d335ae77b267d30c039d444b0cf783820b",
    ),
    "rooms": (rooms(7, tuple(range(9)), 4, 64, 55.0)[0], "14b59cdc166be3dcd127dd058a1566bfbfe67b86060c71fc1fd293ed19577f71"),
}


@pytest.mark.parametrize(("name", "shard", "digest"), [(name, *known) for name, known in SHARDS.items()], ids=list(SHARDS))
def test_the_digest_of_a_job_is_what_it_was(name: str, shard: RowSource, digest: str) -> None:
    output = Output("/out", [shard, shard], (), (), ("x", "y"), 255, (), ("p",) if name == "clouds" else ())
    assert job_digest(output) == digest
    assert job_digest(replace(output, shards=[shard])) != digest
