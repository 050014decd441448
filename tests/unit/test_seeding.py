"""One seed gives streams that nothing but their name and key decides."""

from __future__ import annotations

import itertools

import pytest
import torch

from normlab.errors import SpecError
from normlab.seeding import Streams, md5_seed, resolve_seed


def test_md5_seeds_collide_first_where_the_notes_say():
    assert md5_seed(88266) == md5_seed(86786)
    assert len({md5_seed(seed) for seed in range(1000)}) == 1000


def test_seed_schemes():
    assert resolve_seed(7, "plain") == 7
    with pytest.raises(SpecError, match="seed_scheme 'md4': 'plain' or 'md5'"):
        resolve_seed(7, "md4")


def test_a_stream_starts_where_it_started():
    streams = Streams(3)
    assert streams.integer("init", "conv1.weight") == Streams(3).integer("init", "conv1.weight")
    assert (streams.numpy("shuffle", 2).permutation(10) == streams.numpy("shuffle", 2).permutation(10)).all()
    a, b = (torch.rand(5, generator=streams.torch("init", "w")) for _ in range(2))
    assert torch.equal(a, b)


def test_the_numbers_of_a_stream_never_change():
    # a change here would make every stored run irreproducible
    assert Streams(1).integer("init", "conv1.weight") == 1083499790206496296


def test_different_names_keys_and_seeds_are_different_streams():
    keys = [
        ("init",),
        ("shuffle",),
        ("init", "a"),
        ("init", "b"),
        ("init", 1),
        ("init", "1"),
        ("init", "a", "b"),
        ("init", "ab"),
    ]
    numbers = [Streams(seed).integer(*key) for seed, key in itertools.product(range(3), keys)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**63 for number in numbers)


def test_drawing_moves_neither_other_streams_nor_the_default_generators():
    streams = Streams(3)
    before = torch.get_rng_state()
    expected = streams.numpy("augment").random(3)
    torch.rand(100, generator=streams.torch("init"))
    assert (streams.numpy("augment").random(3) == expected).all()
    assert torch.equal(torch.get_rng_state(), before)
