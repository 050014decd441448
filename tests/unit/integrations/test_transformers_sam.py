"""SAM under HF Trainer does what a loop written by hand does."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Trainer

from normlab.errors import SpecError
from normlab.integrations.transformers import SAMTrainer
from normlab.optim import SAM
from tests.unit.integrations.hf import Classifier, InOrder, arguments, dicts
from tests.unit.integrations.problems import RHO, assert_same_state, network, sam_on_by_hand, sgd, state


class InOrderSAM(SAMTrainer, InOrder): ...


def fit(model, path, cls=InOrderSAM, **options) -> Trainer:
    optimizer = SAM(sgd(model.parameters()), model, RHO, scope="norm")
    options = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0} | options
    return cls(model, arguments(path, **options), train_dataset=dicts(), optimizers=(optimizer, None))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("every", [1, 3])
def test_equals_a_loop_by_hand(tmp_path, every, clip, autocast):
    model = Classifier(network())
    expected = copy.deepcopy(model.net)
    options = {"bf16": autocast is not None, "max_grad_norm": clip or 0.0, "gradient_accumulation_steps": every}
    fit(model, tmp_path, **options).train()
    sam_on_by_hand(expected, every=every, clip=clip, autocast=autocast)
    assert_same_state(model.net, expected)


def test_the_last_step_of_an_epoch_may_have_fewer_micro_batches(tmp_path):
    model = Classifier(network())
    trainer = fit(model, tmp_path, gradient_accumulation_steps=4)
    trainer.train()
    assert trainer.state.global_step == 4
    assert not trainer.optimizer.optimizer.perturbed
    assert int(model.net[1].num_batches_tracked) == 12


def test_logged_is_the_loss_of_the_first_pass(tmp_path):
    losses = []

    class Recording(InOrderSAM):
        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            losses.append((self.optimizer.optimizer.perturbed, float(loss.detach())))
            return loss

    out = fit(Classifier(network()), tmp_path, Recording, gradient_accumulation_steps=2).train()
    assert len(losses) == 24
    first = [loss for perturbed, loss in losses if not perturbed]
    assert out.training_loss == pytest.approx(sum(first) / 12)


def test_a_checkpoint_resumes(tmp_path):
    straight = Classifier(network())
    again = copy.deepcopy(straight)
    fit(straight, tmp_path, save_strategy="epoch").train()
    fit(again, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same_state(again, straight, atol=0)


@pytest.mark.parametrize("every", [1, 2])
def test_a_second_pass_that_raises_leaves_the_weights(tmp_path, every):
    class Failing(InOrderSAM):
        def compute_loss(self, *args, **kwargs):
            if self.optimizer.optimizer.perturbed:
                raise RuntimeError("out of memory")
            return super().compute_loss(*args, **kwargs)

    model = Classifier(network())
    before = state(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(model, tmp_path, Failing, gradient_accumulation_steps=every).train()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_another_optimizer_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"optimizers=\(SAM\(optimizer, model\), scheduler\)"):
        InOrderSAM(Classifier(network()), arguments(tmp_path)).train()


def test_another_trainer_is_refused_by_sam(tmp_path):
    with pytest.raises(SpecError, match="needs two passes"):
        fit(Classifier(network()), tmp_path, InOrder).train()
