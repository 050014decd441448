"""What cannot be run says why, suggests what would do, and keeps no rule from being checked that could be."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import normlab
from normlab.doctor.processes import Processes
from normlab.errors import SpecError, Unavailable
from tests.unit.doctor import cases
from tests.unit.doctor.cases import images, reached, resnet


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.norm, self.error = nn.BatchNorm2d(3), error

    def forward(self, x):
        self.norm(x)
        raise self.error


def test_a_batch_that_does_not_fit_is_told_with_the_layer():
    found = normlab.doctor(resnet(), torch.randn(8, 5, 12, 12))
    assert found.exit_code == 2
    assert "expected input[8, 5, 12, 12] to have 3 channels" in (found.failure or "")
    reasons = {rule.id: rule.reason for rule in found.unchecked}
    assert reasons["NL010"].startswith("the model does not run on the batch in training mode: RuntimeError")
    assert normlab.doctor(nn.Sequential(nn.BatchNorm2d(4)), images()).failure == (
        "layer 0 on 8x3x12x12: RuntimeError: running_mean should contain 3 elements not 4"
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_suggests_a_smaller_batch(error):
    found = normlab.doctor(Raises(error), images())
    assert found.failure == "out of memory with 8 examples; try 4"
    assert found.exit_code == 2
    assert not found.findings


def test_out_of_memory_as_the_model_is_copied_is_no_fault_of_the_rules(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = cases.train(resnet(), 40)
    monkeypatch.setattr(sys.modules["normlab.inputs.sandbox"], "_clone", fails)  # the name is the function's too
    found = normlab.doctor(model, images())
    assert (found.failure, found.findings) == ("out of memory with 8 examples; try 4", ())


class Picky(nn.Module):
    """Runs in one mode only."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.net, self.mode = resnet(), mode

    def forward(self, x):
        print("forward")
        if self.training != self.mode:
            raise AssertionError("targets should not be none")
        return self.net(x)


def test_a_model_for_eval_mode_alone_says_so():
    found = normlab.doctor(Picky(False), images())
    assert found.failure == "AssertionError: targets should not be none; in eval mode it runs"
    assert (found.exit_code, found.findings) == (2, ())


def test_a_model_for_training_alone_is_looked_at_in_training():
    model = cases.train(Picky(True), 60)
    found = normlab.doctor(model, images())
    assert reached(found)
    reasons = {rule.id: rule.reason for rule in found.unchecked}
    assert reasons["NL001"] == (
        "the model does not run on the batch in eval mode: AssertionError: targets should not be none"
    )


def test_a_model_of_which_a_part_is_on_the_meta_device():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, device="meta"), nn.BatchNorm2d(4))
    found = normlab.doctor(model, images())
    assert not any(finding.failed for finding in found.findings), found
    assert found.exit_code == 2


def test_a_model_on_the_meta_device_is_looked_at_and_not_run():
    with torch.device("meta"):
        model = resnet()
    found = normlab.doctor(model, images())
    assert [finding.id for finding in found.findings] == ["NL027"]
    assert "the model is on the meta device, where nothing is computed" in {rule.reason for rule in found.unchecked}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there():
    with pytest.raises(SpecError, match="device 'cuda' cannot be used"):
        normlab.doctor(resnet(), images(), device="cuda")


def test_a_batch_with_nan_is_found_and_concludes_nothing_else():
    batch = images()
    batch[0] = float("nan")
    found = normlab.doctor(cases.train(resnet(), 60), batch)
    assert [finding.id for finding in found.findings] == ["NL103"]
    assert found.exit_code == 1


class Torn(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise FileNotFoundError("image 3 is gone")


def test_a_loader_that_raises_is_one_line():
    loader = torch.utils.data.DataLoader(Torn(), batch_size=4)
    with pytest.raises(SpecError, match="the loader gave no batch: FileNotFoundError: image 3 is gone"):
        normlab.doctor(resnet(), loader=loader)


def test_the_meta_device_holds_no_batch_and_runs_nothing():
    with pytest.raises(SpecError, match="a batch is on the meta device, and holds no values"):
        normlab.doctor(resnet(), images().to("meta"))
    with pytest.raises(SpecError, match="device 'meta' cannot be used: nothing is computed there"):
        normlab.doctor(resnet(), images(), device="meta")


class Untrainable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = resnet()

    def train(self, mode=True):
        raise RuntimeError("for inference only")

    def forward(self, x):
        return self.net(x)


def test_a_model_that_refuses_to_train_is_looked_at_and_not_run():
    found = normlab.doctor(Untrainable(), images())
    assert (found.findings, found.exit_code) == ((), 0)
    assert "model.train() raises RuntimeError: for inference only" in {rule.reason for rule in found.unchecked}
    assert "NL003" in found.clean


class Ragged(nn.Module):
    """Takes images of different sizes, one by one, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet()

    def forward(self, images, targets):
        return torch.cat([self.net(image[None]) for image in images])


def test_examples_in_a_list_are_counted_where_norms_see_them():
    batch = [torch.randn(3, 32, 40), torch.randn(3, 40, 32)], [{"boxes": torch.zeros(0, 4)}] * 2
    found = normlab.doctor(Ragged(), batch, select="NL004")
    assert found.findings[0].text == "batches of 1 for 9 batch norms"


def test_findings_count_more_than_a_batch_that_cannot_be_run():
    model = Raises(RuntimeError("no way")).train()
    model.norm.running_var.fill_(float("nan"))
    found = normlab.doctor(model, images())
    assert [f.id for f in found.findings] == ["NL003"]
    assert found.exit_code == 1
    assert found.failure == "RuntimeError: no way"


def test_a_process_that_has_ended_is_told_in_one_line(monkeypatch):
    def fails(*_):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:3487")

    monkeypatch.setattr(torch.distributed, "all_gather_object", fails)
    with pytest.raises(Unavailable, match="another process has ended"):
        Processes(0, 2).tell("anything")
