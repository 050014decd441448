"""Models inside something else are unwrapped, or refused with the reason; and conversions are undone in order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.layers import BatchNorm, GroupNorm
from normlab.surgery import convert, freeze, unfreeze
from tests.unit.surgery.conversions import net, refused


@pytest.mark.parametrize("name", ["fully_sharded_data_parallel.FullyShardedDataParallel", "FSDPModule"])
def test_sharded_models_are_refused(name):
    module, _, cls = f"torch.distributed.fsdp.{name}".rpartition(".")
    wrapper = type(cls, (nn.Sequential,), {"__module__": module})
    refused(nn.Sequential(wrapper(nn.BatchNorm2d(4))), "batch", f"^0 is a {cls}: .*Convert the model first, then shard")


def test_the_names_of_the_wrappers_are_those_of_this_torch():
    from torch._dynamo.eval_frame import OptimizedModule
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    from normlab.surgery import wrapped

    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in (FullyShardedDataParallel, FSDPModule)]
    assert tuple(names) == wrapped._FULLY_SHARDED
    assert f"{OptimizedModule.__module__}.{OptimizedModule.__qualname__}" == wrapped._COMPILED


def test_distributed_data_parallel_is_refused(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(net())
        refused(model, "batch", "the model is a DistributedDataParallel.*Do this to model.module")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_quantised_models_are_refused():
    refused(torch.jit.script(net()), "batch", "ScriptModule: .*Convert the Python model first")
    quantised = torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8)
    refused(nn.Sequential(net(), quantised), "batch", "^1 is a Quantize: .*then quantise it")


def test_what_is_no_model_is_refused():
    with pytest.raises(SpecError, match="takes a torch module; got 3"):
        convert(3, "batch")


def test_reverting_twice_or_out_of_order():
    model = net()
    first = convert(model, "batch")
    second = convert(model, "group(num_groups=2)")
    with pytest.raises(SpecError, match="1 has been exchanged again since"):
        first.revert()
    assert type(model[1]) is GroupNorm
    second.revert()
    assert type(model[1]) is BatchNorm
    first.revert()
    with pytest.raises(SpecError, match="was reverted already"):
        first.revert()
    with pytest.raises(SpecError, match="a dry run changes nothing"):
        convert(model, "batch", dry_run=True).revert()


def test_frozen_layers_are_refused_and_a_freeze_is_not_undone_by_the_way():
    model = net()
    freeze(model)
    refused(model, "batch", "^1, BatchNorm2d: it is frozen: unfreeze")
    unfreeze(model)
    freeze(model, stats=False)
    refused(model, "batch", "^1, BatchNorm2d: it is frozen: unfreeze")
    unfreeze(model)
    record = convert(model, "batch")
    freeze(model)
    with pytest.raises(SpecError, match="1 was frozen since"):
        record.revert()
    unfreeze(model)
    record.revert()
