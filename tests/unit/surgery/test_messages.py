"""What is given by mistake is named in the message, which is normlab's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import normlab
from normlab import NormlabError

BATCH = torch.zeros(4, 3, 8, 8)


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


MISTAKES = {
    "recipe of None": (lambda m: normlab.recipe(None), "named by a string.*got None"),
    "explain None": (lambda m: normlab.recipe("baseline").explain(None), "module is wanted; got None"),
    "prepare a list": (lambda m: normlab.recipe("baseline").prepare([m]), "got an instance of list"),
    "max_lr of a model": (lambda m: normlab.recipe("baseline").max_lr(m, 0.1), "got an instance of Sequential"),
    "progress first": (lambda m: normlab.set_progress(0.5, m), "torch module, then t; got 0.5"),
    "progress in words": (lambda m: normlab.set_progress(m, "0.5"), "a number between 0 and 1; got '0.5'"),
    "freeze None": (lambda m: normlab.freeze(None), "freeze takes a torch module"),
    "freeze lazy": (lambda m: normlab.freeze(nn.Sequential(nn.LazyBatchNorm2d())), "has no shape yet"),
    "recalibrate None": (lambda m: normlab.recalibrate(None, [BATCH]), "recalibrate takes a torch module"),
    "no loader": (lambda m: normlab.recalibrate(m, None), "a list, of batches; got None"),
    "batches in words": (lambda m: normlab.recalibrate(m, [BATCH], batches="3"), "how many to take.*'3'"),
    "an empty batch": (lambda m: normlab.recalibrate(m, [BATCH, BATCH[:0]]), "leave empty batches out"),
    "norm_state of None": (lambda m: normlab.norm_state(None), "norm_state takes a torch module"),
    "merge a model": (lambda m: normlab.norm_state(m).merge([m]), "got an instance of Sequential"),
    "load into None": (lambda m: normlab.norm_state(m).load(None), "got None"),
    "frozen_stats of None": (lambda m: normlab.frozen_stats(None).__enter__(), "got None"),
    "a number as mode": (lambda m: normlab.stats_mode(m, 0.3).__enter__(), "got 0.3"),
    "a number as where": (lambda m: normlab.convert(m, "group(num_groups=4)", where=1), "function of a Site; got 1"),
    "convert None": (lambda m: normlab.convert(None, "group"), "surgery takes a torch module; got None"),
    "an instance as type": (lambda m: normlab.register_norm_type(m, kind="batch"), "takes a class of modules"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    act, message = MISTAKES[mistake]
    with pytest.raises(NormlabError, match=message):
        act(network())


def test_records_show_as_their_tables():
    model = network()
    record = normlab.convert(model, "group(num_groups=4)")
    assert repr(record) == record.table()
    assert repr(normlab.norm_state(model)) == "NormState(2 parameters, 0 statistics, 0 counters)"
    record.revert()
    folded = normlab.fold(model.eval())
    assert repr(folded) == folded.table()


def test_no_word_is_broken_in_a_table_that_has_room():
    model = nn.ModuleDict({f"stage{i}": nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8)) for i in range(3)})
    for line in str(normlab.convert(model, "iebn")).splitlines()[3:4]:
        assert "InstanceEnhancementBatchNorm" in line


def test_reverting_follows_a_change_of_dtype():
    model = network()
    record = normlab.convert(model, "group(num_groups=4)")
    model.double()
    record.revert()
    assert model[1].running_mean.dtype == torch.float64
    model(BATCH.double())


def test_a_record_is_not_copied_since_it_would_revert_the_original():
    model = network()
    record = normlab.convert(model, "iebn")
    with pytest.raises(NormlabError, match="belongs to the very model"):
        copy.deepcopy((model, record))


def test_an_optimizer_of_another_model_is_refused_and_nothing_converted():
    model, other = network(), torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(NormlabError, match="none of the optimizer's 4 parameters"):
        normlab.convert(model, "iebn", optimizer=other)
    assert type(model[1]) is nn.BatchNorm2d


def test_outputs_of_a_norm_with_features_last_are_contiguous_as_before():
    for to in ("layer", "batch", nn.BatchNorm1d):
        model = nn.Sequential(nn.LayerNorm(8))
        normlab.convert(model, to)
        assert model(torch.randn(2, 5, 8)).view(-1, 8).shape == (10, 8)


def test_affine_parameters_of_a_model_in_ddp_are_not_frozen():
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

    with pytest.raises(NormlabError, match="has planned its communication"):
        normlab.freeze(Wrapped(network()))
    assert normlab.freeze(Wrapped(network()), affine=False) == ["module.1"]
