"""SAM under Lightning does what a loop written by hand does."""

from __future__ import annotations

import copy

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from normlab.errors import SpecError
from normlab.integrations.lightning import SAMModule
from normlab.optim import SAM
from tests.unit.integrations.nets import ByClosure, ByTwoPasses, Net, loader, trainer
from tests.unit.integrations.problems import RHO, assert_same_state, loss_of, sam_on_by_hand, sgd, state


class Automatic(SAMModule, Net):
    def configure_optimizers(self):
        return SAM(sgd(self.parameters()), self, RHO, scope="norm")


class Plain(Net):
    configure_optimizers = Automatic.configure_optimizers


PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cls", [ByClosure, ByTwoPasses, Automatic, Plain])
def test_equals_a_loop_by_hand(cls, precision):
    net = cls()
    expected = copy.deepcopy(net.model)
    trainer(precision=precision).fit(net, loader())
    sam_on_by_hand(expected, autocast=PRECISIONS[precision])
    assert_same_state(net.model, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("every", [2, 3, 4])
def test_accumulation_sees_every_micro_batch_twice(every, precision):
    net = Automatic()
    expected = copy.deepcopy(net.model)
    trainer(accumulate_grad_batches=every, gradient_clip_val=0.5, precision=precision).fit(net, loader())
    sam_on_by_hand(expected, every=every, clip=0.5, autocast=PRECISIONS[precision])
    assert_same_state(net.model, expected)


def test_accumulation_by_two_passes_of_ones_own():
    net = ByTwoPasses()
    net.every = 3
    expected = copy.deepcopy(net.model)
    trainer().fit(net, loader())
    sam_on_by_hand(expected, every=3)
    assert_same_state(net.model, expected)


@pytest.mark.parametrize("cls", [ByTwoPasses, Automatic])
def test_sixteen_bit_precision_with_a_grad_scaler(cls):
    net = cls()
    expected = copy.deepcopy(net.model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)  # the first steps overflow, and are skipped
    trainer(plugins=[MixedPrecision("16-mixed", "cpu", scaler)], max_epochs=1).fit(net, loader())
    assert scaler.get_scale() < 2.0**20
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert not torch.equal(net.model[0].weight, expected[0].weight)


def test_logged_is_the_first_pass_alone_and_hooks_log_too():
    class Logging(Automatic):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch)
            self.log("loss", loss, on_epoch=True, on_step=False, batch_size=4)
            self.seen.append((self.optimizers().perturbed, float(loss.detach())))
            return loss

        def on_before_optimizer_step(self, optimizer):
            self.log("steps", 1.0, reduce_fx="sum", on_epoch=True, on_step=False)

    net = Logging()
    net.seen = []
    fit = trainer(max_epochs=1, accumulate_grad_batches=2)
    fit.fit(net, loader())
    assert len(net.seen) == 12
    first = [loss for perturbed, loss in net.seen if not perturbed]
    assert float(fit.callback_metrics["loss"]) == pytest.approx(sum(first) / 6)
    assert float(fit.callback_metrics["steps"]) == 3


def test_a_scheduler_made_with_sam_is_stepped():
    class Scheduled(Automatic):
        def configure_optimizers(self):
            sam = super().configure_optimizers()
            return [sam], [torch.optim.lr_scheduler.ExponentialLR(sam, 0.5)]

    net = Scheduled()
    fit = trainer(max_epochs=2)
    fit.fit(net, loader())
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_a_checkpoint_resumes(tmp_path):
    straight, half = Automatic(), None
    half = copy.deepcopy(straight)
    trainer(max_epochs=2).fit(straight, loader())
    first = trainer(max_epochs=1)
    first.fit(half, loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = Automatic()
    trainer(max_epochs=2).fit(again, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert_same_state(again.model, straight.model, atol=0)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("every", [1, 2])
def test_a_second_pass_that_raises_leaves_the_weights(every, scaled):
    class Failing(Automatic):
        def training_step(self, batch):
            if self.optimizers().perturbed:
                raise RuntimeError("out of memory")
            return super().training_step(batch)

    net = Failing()
    before = state(net.model)
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))] if scaled else None
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(accumulate_grad_batches=every, plugins=plugins).fit(net, loader())
    assert all(torch.equal(p, before[name]) for name, p in net.model.named_parameters())


def test_another_optimizer_is_refused():
    class Wrong(SAMModule, Net): ...

    with pytest.raises(SpecError, match=r"normlab\.optim\.SAM"):
        trainer().fit(Wrong(), loader())


def test_a_hook_that_hides_the_micro_batches_is_refused():
    class Hiding(Automatic):
        def on_train_batch_start(self, batch, batch_idx): ...

    with pytest.raises(SpecError, match="super"):
        trainer().fit(Hiding(), loader())


def test_a_batch_without_loss_in_accumulation_is_left_out_of_both_passes():
    class Skipping(Automatic):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 0 else loss_of(self.model, batch)

    net = Skipping()
    trainer(accumulate_grad_batches=2, max_epochs=1).fit(net, loader())
    assert not net.optimizers().perturbed


def test_is_a_lightning_module():
    assert issubclass(SAMModule, L.LightningModule)


def test_clipping_is_of_unscaled_gradients():
    small, large = (_clipped_in_sixteen_bits(scale) for scale in (1.0, 2.0**10))
    assert_same_state(small, large, atol=1e-3)


def _clipped_in_sixteen_bits(scale: float):
    torch.manual_seed(0)
    net = Automatic()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    trainer(plugins=[precision], max_epochs=1, gradient_clip_val=0.1).fit(net, loader())
    assert scaler.get_scale() == scale
    return net
