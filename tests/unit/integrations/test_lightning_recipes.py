"""A recipe under Lightning: what it prepares, which groups arrive, what undoes it."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

import normlab
from normlab.errors import SpecError, UnknownName
from normlab.integrations.lightning import NormRecipe, RecalibrateOnEval, SAMModule, param_groups
from normlab.layers import SparseSwitchNorm, StochasticWhiteningBatchNorm
from normlab.optim import SAM
from normlab.recipes import InputNormalized
from normlab.recipes.attach import follows_rules
from tests.unit.integrations.nets import Net, loader, trainer
from tests.unit.integrations.problems import assert_same_state, batches, loss_of, network

SPEC = "revisited(scale=0.1, lr_divisor=10)"


class ByRecipe(Net):
    max_lr = None

    def configure_optimizers(self):
        groups = param_groups(self, lr=0.1, weight_decay=0.01)
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        if self.max_lr is None:
            return optimizer
        highest = normlab.recipe(SPEC).max_lr(optimizer, 0.2) if self.max_lr == "list" else 0.2
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=12)]


def test_equals_a_loop_by_hand():
    net = ByRecipe()
    expected, recipe = copy.deepcopy(net.model), normlab.recipe(SPEC)
    torch.manual_seed(1)
    fit = trainer(NormRecipe(SPEC))
    fit.fit(net, loader())
    torch.manual_seed(1)
    expected = recipe.prepare(expected)
    optimizer = torch.optim.SGD(recipe.param_groups(expected, lr=0.1, weight_decay=0.01), lr=0.1, momentum=0.9)
    for batch in batches() * 2:
        optimizer.zero_grad()
        loss_of(expected, batch).backward()
        optimizer.step()
    assert isinstance(net.model, InputNormalized)
    assert_same_state(net.model, expected)
    names = {group["name"]: (group["lr"], group["weight_decay"]) for group in fit.optimizers[0].param_groups}
    assert names == {"no_decay": (0.1, 0), "norm_scale": (0.01, 0), "weight": (0.1, 0.01)}


def test_groups_hold_parameters_outside_the_network_too():
    class Headed(ByRecipe):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def training_step(self, batch):
            return super().training_step(batch) * self.temperature

    fit = trainer(NormRecipe(SPEC))
    net = Headed()
    fit.fit(net, loader())
    held = [p for group in fit.optimizers[0].param_groups for p in group["params"]]
    assert len(held) == len(list(net.parameters()))


def test_a_run_that_resumes_is_the_run_that_was_not_interrupted(tmp_path):
    straight = ByRecipe()
    half = copy.deepcopy(straight)
    torch.manual_seed(1)
    trainer(NormRecipe(SPEC)).fit(straight, loader())
    torch.manual_seed(1)
    first = trainer(NormRecipe(SPEC), max_epochs=1)
    first.fit(half, loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = ByRecipe()
    trainer(NormRecipe(SPEC)).fit(again, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert_same_state(again.model, straight.model, atol=0)


def test_a_second_fit_goes_on_with_the_prepared_network():
    net, callback = ByRecipe(), NormRecipe(SPEC)
    trainer(callback, max_epochs=1).fit(net, loader())
    model = net.model
    trainer(callback, max_epochs=1).fit(net, loader())
    assert net.model is model


def test_a_trained_network_is_refused_unless_it_is_said_to_be_prepared():
    net = Net()
    trainer(max_epochs=1).fit(net, loader())
    with pytest.raises(SpecError, match="pretrained"):
        trainer(NormRecipe("lr_only(input_norm=False)")).fit(net, loader())
    trainer(NormRecipe("lr_only(input_norm=False)", prepare=False, undone="warn")).fit(net, loader())


def test_onecycle_with_a_scalar_max_lr_is_found():
    net = ByRecipe()
    net.max_lr = "scalar"
    with pytest.raises(SpecError, match=r"OneCycleLR.*max_lr=recipe\.max_lr\(optimizer, 0\.2\)"):
        trainer(NormRecipe(SPEC)).fit(net, loader())
    net = ByRecipe()
    net.max_lr = "list"
    trainer(NormRecipe(SPEC)).fit(net, loader())


def test_groups_that_are_not_the_recipes_are_found_and_may_be_a_warning():
    with pytest.raises(SpecError, match="groups were made by"):
        trainer(NormRecipe(SPEC)).fit(Net(), loader())
    with pytest.warns(UserWarning, match="groups were made by"):
        trainer(NormRecipe(SPEC, undone="warn")).fit(Net(), loader())


def test_only_optimizers_of_the_network_are_asked_for():
    class Adversarial(ByRecipe):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.critic = nn.Linear(3, 1)

        def configure_optimizers(self):
            groups = normlab.recipe(SPEC).param_groups(self.model, lr=0.1)
            return torch.optim.SGD(groups, lr=0.1), torch.optim.Adam(self.critic.parameters())

        def training_step(self, batch): ...

    trainer(NormRecipe(SPEC)).fit(Adversarial(), loader())


class Watch(Callback):
    def __init__(self, cls, attribute):
        self.cls, self.attribute, self.seen = cls, attribute, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        module = next(module for module in pl_module.modules() if isinstance(module, self.cls))
        self.seen.append(float(getattr(module, self.attribute)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, [k / 12 for k in range(12)]),
        ({"accumulate_grad_batches": 4}, [0, 4 / 12, 6 / 12, 10 / 12]),
        ({"max_epochs": -1, "max_steps": 4}, [0, 1 / 4, 2 / 4, 3 / 4]),
        ({"max_epochs": 5, "max_steps": 4}, [0, 1 / 4, 2 / 4, 3 / 4]),
    ],
    ids=["epochs", "accumulation", "steps", "steps-before-epochs"],
)
def test_progress_and_training_rules_reach_sparse_switch(options, told):
    watch = Watch(SparseSwitchNorm, "radius")
    fit = trainer(NormRecipe("lr_only(input_norm=False)"), watch, **options)
    net = ByRecipe(network(SparseSwitchNorm))
    fit.fit(net, loader())
    assert watch.seen == pytest.approx(told)
    assert follows_rules(fit.optimizers[0])
    assert "mix_logits" in [group["name"] for group in fit.optimizers[0].param_groups]


def test_stochastic_whitening_follows_the_learning_rate():
    class Scheduled(ByRecipe):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    watch = Watch(StochasticWhiteningBatchNorm, "lr_share")
    net = Scheduled(network(StochasticWhiteningBatchNorm))
    trainer(NormRecipe("lr_only(input_norm=False)"), watch, max_epochs=3).fit(net, loader(size=12))
    assert watch.seen == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_progress_needs_an_end():
    fit = trainer(NormRecipe("lr_only(input_norm=False)"), max_epochs=-1, max_time="00:00:01:00")
    with pytest.raises(SpecError, match="max_epochs or max_steps"):
        fit.fit(ByRecipe(network(SparseSwitchNorm)), loader())


def test_averaging_comes_between_preparation_and_recalibration():
    for callbacks in ([EMAWeightAveraging(), NormRecipe(SPEC)], [RecalibrateOnEval(), EMAWeightAveraging()]):
        with pytest.raises(SpecError, match="NormRecipe, WeightAveraging, RecalibrateOnEval"):
            trainer(*callbacks).fit(ByRecipe(), loader())


def test_sam_that_would_see_one_micro_batch_alone_is_refused():
    class Forgetful(ByRecipe):
        def configure_optimizers(self):
            return SAM(super().configure_optimizers(), self, scope="norm")

    class Remembering(SAMModule, Forgetful): ...

    with pytest.raises(SpecError, match="derive Forgetful from"):
        trainer(NormRecipe(SPEC), accumulate_grad_batches=2).fit(Forgetful(), loader())
    callbacks = [NormRecipe(SPEC), EMAWeightAveraging(), RecalibrateOnEval()]
    trainer(*callbacks, accumulate_grad_batches=2).fit(Remembering(), loader(), loader())


def test_wrong_names_are_told():
    with pytest.raises(UnknownName, match="Known: model"):
        trainer(NormRecipe(SPEC, network="net")).fit(ByRecipe(), loader())
    with pytest.raises(UnknownName, match="raise, warn"):
        NormRecipe(SPEC, undone="ignore")
    with pytest.raises(SpecError, match="has 0 of them"):
        trainer().fit(ByRecipe(), loader())
