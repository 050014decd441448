"""Running statistics of what Lightning evaluates."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from normlab.errors import SpecError
from normlab.integrations.lightning import RecalibrateOnEval
from normlab.integrations.lightning.recalibrate import training_loader
from normlab.surgery import recalibrate
from tests.unit.integrations.nets import Net, loader, trainer
from tests.unit.integrations.problems import assert_same_state, loss_of, network


class Watch(L.Callback):
    """Keeps a copy of what is validated."""

    def __init__(self):
        self.seen = []

    def on_validation_epoch_start(self, trainer, pl_module):
        self.seen.append(copy.deepcopy(pl_module.model))


def test_validated_are_statistics_of_the_weights_that_are_validated():
    watch, net = Watch(), Net()
    trainer(RecalibrateOnEval(batches=None), watch).fit(net, loader(), loader())
    assert len(watch.seen) == 3  # the first is the sanity check
    assert int(watch.seen[0][1].num_batches_tracked) == 0
    for model in watch.seen[1:]:
        expected = copy.deepcopy(model)
        recalibrate(expected, loader())
        expected[1].num_batches_tracked.copy_(model[1].num_batches_tracked)
        expected[4].num_batches_tracked.copy_(model[4].num_batches_tracked)
        assert_same_state(model, expected)


def test_training_is_the_same_with_and_without_it():
    nets = []
    for callbacks in ([], [RecalibrateOnEval(batches=2)]):
        torch.manual_seed(3)
        net = Net()
        generator = torch.Generator().manual_seed(5)
        trainer(*callbacks, val_check_interval=0.5).fit(net, loader(shuffle=True, generator=generator), loader())
        nets.append(net)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("use_buffers", [True, False])
def test_averaged_weights_get_statistics_of_their_own(use_buffers):
    """Row 15: averages beside statistics that lag behind them, or are another model's."""
    watch, net = Watch(), Net()
    average = EMAWeightAveraging(use_buffers=use_buffers, decay=0.9)
    trainer(average, RecalibrateOnEval(batches=None), watch).fit(net, loader(), loader())
    expected = copy.deepcopy(net.model)
    recalibrate(expected, loader())
    for place in (1, 4):
        torch.testing.assert_close(net.model[place].running_mean, expected[place].running_mean)
        torch.testing.assert_close(net.model[place].running_var, expected[place].running_var)
    assert torch.equal(watch.seen[-1][0].weight, net.model[0].weight)


def test_the_checkpoint_has_the_model_whose_metric_was_logged(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val_loss")
    callbacks = [EMAWeightAveraging(decay=0.9), RecalibrateOnEval(), best]
    trainer(*callbacks, enable_checkpointing=True).fit(Net(), loader(), loader())
    loaded = Net.load_from_checkpoint(best.best_model_path, weights_only=False).eval()
    with torch.no_grad():
        losses = [loss_of(loaded.model, batch) for batch in loader()]
    assert float(torch.stack(losses).mean()) == pytest.approx(float(best.best_model_score), abs=1e-6)


def test_hooks_see_the_batches_first():
    class Scaling(Net):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch[0] + 1, batch[1]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] * 10, batch[1]

    net = Scaling()
    trainer(RecalibrateOnEval(loader=loader())).test(net, loader())
    expected = Net(copy.deepcopy(net.model))
    recalibrate(expected.model, [(10 * (x + 1), t) for x, t in loader()])
    torch.testing.assert_close(net.model[1].running_mean, expected.model[1].running_mean)
    torch.testing.assert_close(net.model[1].running_var, expected.model[1].running_var)


def test_runs_in_the_precision_of_the_evaluation():
    dtypes = []

    def forward(module, batch):
        dtypes.append(module(batch[0]).dtype)

    trainer(RecalibrateOnEval(1, loader=loader(), forward=forward), precision="bf16-mixed").test(Net(), loader())
    assert dtypes == [torch.bfloat16]


def test_a_test_by_itself_needs_a_loader():
    with pytest.raises(SpecError, match=r"loader=.*none outside fit"):
        trainer(RecalibrateOnEval()).test(Net(), loader())


def test_a_loader_that_cannot_be_read_twice_is_refused():
    persistent = loader(num_workers=1, persistent_workers=True)
    for given, why in ((persistent, "persist"), ([loader(), loader()], "list is not one DataLoader")):
        with pytest.raises(SpecError, match=why):
            training_loader(SimpleNamespace(train_dataloader=given))


def test_a_model_without_statistics_is_refused():
    net = Net(network(lambda c: torch.nn.GroupNorm(2, c)))
    with pytest.raises(SpecError, match="GroupNorm"):
        trainer(RecalibrateOnEval(loader=loader())).test(net, loader())
