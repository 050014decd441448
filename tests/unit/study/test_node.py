"""What a node of a cluster says of a store that it cannot use."""

import re
import socket

import normlab
from normlab.errors import StoreError
from normlab.study.executors.node import carry_out, environment_of, versions
from normlab.study.run import Options
from normlab.study.store import MARKER, Store


def train(arm, streams, context):
    return {"metric": arm}


RUN = normlab.Study({"a": 0.0, "b": 1.0}, train=train, seeds=2).runs[0]


def test_a_store_that_a_node_does_not_see_is_named_with_the_node(tmp_path):
    told = carry_out(b"", RUN, Store(tmp_path / "elsewhere"), Options(), versions())
    assert isinstance(told, StoreError)
    assert re.match(rf"node {socket.gethostname()} does not see the store .*; on a cluster it must be on", str(told))


def test_a_store_that_a_node_may_not_read_is_named_with_the_node(tmp_path):
    store = Store(tmp_path)
    (tmp_path / MARKER).mkdir()
    told = carry_out(b"", RUN, store, Options(), versions())
    assert str(told).startswith(
        f"node {socket.gethostname()}: cannot read {store}/{MARKER}: Is a directory; nodes need"
    )


def test_folders_of_ones_home_are_passed_on_as_they_are_here(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NORMLAB_DATA_DIR", "~/data")
    assert environment_of(Options())["NORMLAB_DATA_DIR"] == str(tmp_path / "data")
