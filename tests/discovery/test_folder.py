"""A register in a folder."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.discovery.finding import Running
from tests.running import wait_for
from webmesh.discovery.base import Found
from webmesh.discovery.folder import FolderDiscovery, open_folder
from webmesh.discovery.opening import open_discovery
from webmesh.exceptions import ConfigurationError
from webmesh.protocol.node_record import NodeRecord


def node(node_id: str, **parts: Any) -> NodeRecord:
    return NodeRecord(**{"id": node_id, "epoch": 5, "addresses": (f"ws+unix:///run/{node_id}.sock",), **parts})


def discovery(folder: Path, record: NodeRecord | None = None, **options: Any) -> FolderDiscovery:
    made = FolderDiscovery(folder, **{"interval": 0.01, "lease": 5.0} | options)
    if record is not None:
        made.announce(record)
    return made


def test_nodes_find_each_other(tmp_path: Path) -> None:
    """With their whole records; nobody finds itself, and the folder is made for this user alone."""
    folder, one, other = tmp_path / "new" / "mesh", node("a", name="shop", metadata={"worker": 1}), node("b/../c")
    with Running(discovery(folder, one)) as told_one, Running(discovery(folder, other)) as told_other:
        told_one.wait(lambda told: [Found(other.addresses, other)] == told.found)
        told_other.wait(lambda told: [Found(one.addresses, one)] == told.found)
        assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
        assert 2 == len(list(folder.iterdir()))


def test_who_stops_is_gone_and_who_changes_is_known_anew(tmp_path: Path) -> None:
    """It takes its file back."""
    with Running(discovery(tmp_path, node("a"))) as told:
        with Running(other := discovery(tmp_path, node("b"))):
            told.wait(lambda told: 1 == len(told.found))
            other.announce(node("b", version=2, zone="z"))
            told.wait(lambda told: "z" == told.found[0].record.zone)
        told.wait(lambda told: [] == told.found)
    assert [] == list(tmp_path.iterdir())


def test_a_killed_node_is_found_until_its_lease_is_over(tmp_path: Path) -> None:
    """Nobody touches its file any more, and whoever sees that removes it."""
    killed = tmp_path / "k.node"
    killed.write_text(json.dumps(node("k").to_wire()))
    with Running(discovery(tmp_path, node("a"), lease=60.0)) as told:
        told.wait(lambda told: 1 == len(told.found))
        old = time.time() - 61
        os.utime(killed, (old, old))
        told.wait(lambda told: [] == told.found)
        assert not killed.exists()


def test_a_node_keeps_its_file_young_and_makes_it_again(tmp_path: Path) -> None:
    """As when a clock has jumped, for others."""
    own = tmp_path / "a.node"
    with Running(discovery(tmp_path, node("a"))):
        assert wait_for(own.exists)
        os.utime(own, (5, 5))
        assert wait_for(lambda: 5 < own.stat().st_mtime)
        own.unlink()
        assert wait_for(own.exists)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"id": 5}', b"[" * 100_000, b" " * 100_000])
def test_what_is_no_record_is_dropped(tmp_path: Path, content: bytes) -> None:
    """And the others are found."""
    (tmp_path / "x.node").write_bytes(content)
    (tmp_path / "readme.txt").write_bytes(content)
    (tmp_path / "y.node").write_text(json.dumps(node("y").to_wire()))
    with Running(made := discovery(tmp_path, node("a"))) as told:
        told.wait(lambda told: ["ws+unix:///run/y.sock"] == told.urls)
        assert 1 <= made.dropped


def test_one_that_nobody_can_dial_writes_nothing(tmp_path: Path) -> None:
    """It looks, and dials itself."""
    with Running(discovery(tmp_path, node("b"))), Running(discovery(tmp_path, node("a", addresses=()))) as told:
        told.wait(lambda told: 0 < told.times)
        assert not (tmp_path / "a.node").exists()


def test_a_folder_that_cannot_be_had_is_an_outage(tmp_path: Path) -> None:
    """It works as soon as it can be."""
    place = tmp_path / "file"
    place.write_text("")
    with Running(discovery(place, node("a"))) as told:
        told_nothing = told.times
        place.unlink()
        with Running(discovery(place, node("b"))):
            told.wait(lambda told: 1 == len(told.found))
    assert 0 == told_nothing


def test_a_url_names_the_folder(tmp_path: Path) -> None:
    """With its options; and nothing that is no absolute path."""
    made = open_discovery(f"file://{tmp_path}/a%20b?interval=0.1&lease=2")
    assert isinstance(made, FolderDiscovery) and f"the folder {tmp_path}/a b" == made.place
    for url in ("file://host/path", "file:///", "file:///x?lease=0.1", "file:///x?lease=soon", "file:///x?who=me"):
        with pytest.raises(ConfigurationError):
            open_folder(url)
    with pytest.raises(ConfigurationError, match="absolute"):
        FolderDiscovery("relative")
