"""A recipe under HF Trainer: which groups arrive, what undoes it; running statistics of what it evaluates."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback

import normlab
from normlab.errors import SpecError, UnknownName
from normlab.integrations.transformers import NormRecipe, RecalibrateOnEval, recipe_optimizers
from normlab.layers import SparseSwitchNorm
from normlab.surgery import recalibrate
from tests.unit.integrations.hf import Classifier, InOrder, arguments, dicts, loader
from tests.unit.integrations.problems import assert_same_state, batches, loss_of, network

RECIPE = normlab.recipe("revisited(scale=0.1, lr_divisor=10, input_norm=False)")


@pytest.fixture
def args(tmp_path):
    return arguments(tmp_path)


def prepared() -> Classifier:
    return Classifier(RECIPE.prepare(network()))


def test_equals_a_loop_by_hand(args):
    model = prepared()
    expected = copy.deepcopy(model.net)
    args.learning_rate, args.weight_decay, args.max_grad_norm, args.optim = 0.1, 0.01, 0.0, "sgd"
    fit = InOrder(model, args, callbacks=[NormRecipe(RECIPE)], optimizers=recipe_optimizers(RECIPE, model, args))
    fit.train()
    optimizer = torch.optim.SGD(RECIPE.param_groups(expected, lr=0.1, weight_decay=0.01))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 12)
    for batch in batches() * 2:
        optimizer.zero_grad()
        loss_of(expected, batch).backward()
        optimizer.step()
        schedule.step()
    assert_same_state(model.net, expected)
    groups = {group["name"]: (group["initial_lr"], group["weight_decay"]) for group in fit.optimizer.param_groups}
    assert groups == {"no_decay": (0.1, 0), "norm_scale": (pytest.approx(0.01), 0), "weight": (0.1, 0.01)}


def test_a_model_of_the_library_with_another_optimizer(args):
    config = ResNetConfig(
        num_channels=2, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3, layer_type="basic"
    )
    model = RECIPE.prepare(ResNetForImageClassification(config))
    optimizers = recipe_optimizers(RECIPE, model, args, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
    data = [{"pixel_values": row["x"].repeat(1, 4, 4), "labels": row["labels"]} for row in dicts()]
    fit = Trainer(model, args, train_dataset=data, callbacks=[NormRecipe(RECIPE)], optimizers=optimizers)
    fit.train()
    assert isinstance(fit.optimizer.optimizer, torch.optim.SGD)
    assert fit.state.global_step == 12


def test_the_trainers_own_groups_are_found(args):
    with pytest.raises(SpecError, match=r"HF Trainer builds groups of its own .* optimizers=\(optimizer, scheduler\)"):
        InOrder(prepared(), args, callbacks=[NormRecipe(RECIPE)]).train()
    with pytest.warns(UserWarning, match="HF Trainer builds groups"):
        InOrder(prepared(), args, callbacks=[NormRecipe(RECIPE, undone="warn")]).train()


def test_onecycle_with_a_scalar_max_lr_is_found(args):
    for scalar in (True, False):
        model = prepared()
        optimizer, _ = recipe_optimizers(RECIPE, model, args)
        highest = 0.2 if scalar else RECIPE.max_lr(optimizer, 0.2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=12)
        fit = InOrder(model, args, callbacks=[NormRecipe(RECIPE)], optimizers=(optimizer, schedule))
        if scalar:
            with pytest.raises(SpecError, match=r"OneCycleLR.*max_lr=recipe\.max_lr\(optimizer, 0\.2\)"):
                fit.train()
        else:
            fit.train()


@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup", "cosine_with_min_lr"])
def test_schedulers_of_the_trainer_keep_the_ratio(args, name):
    args.lr_scheduler_type, args.warmup_steps = name, 3
    args.lr_scheduler_kwargs = {"min_lr": 1e-5} if name == "cosine_with_min_lr" else {}
    model = prepared()
    InOrder(model, args, callbacks=[NormRecipe(RECIPE)], optimizers=recipe_optimizers(RECIPE, model, args)).train()


def test_parameters_that_surgery_replaced_are_found(args):
    model = prepared()
    optimizers = recipe_optimizers(RECIPE, model, args)
    model.set_submodule("net.1", nn.BatchNorm2d(4))
    with pytest.raises(SpecError, match=r"net\.1\.weight is in 0 groups"):
        InOrder(model, args, callbacks=[NormRecipe(RECIPE)], optimizers=optimizers).train()


def test_progress_and_training_rules_reach_sparse_switch(args):
    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, *, model, **_):
            seen.append(float(model.net[1].radius))

    recipe = normlab.recipe("lr_only(input_norm=False)")
    model, args.gradient_accumulation_steps = Classifier(network(SparseSwitchNorm)), 3
    optimizers = recipe_optimizers(recipe, model, args)
    fit = InOrder(model, args, callbacks=[NormRecipe("lr_only(input_norm=False)"), Watch()], optimizers=optimizers)
    fit.train()
    assert seen == pytest.approx([0, 1 / 4, 2 / 4, 3 / 4])
    assert len(optimizers[0]._optimizer_step_pre_hooks) == 1


def test_optimizers_that_make_groups_of_their_own_are_refused(args, monkeypatch):
    for answer in ((torch.optim.SGD, {"params": []}), (lambda: None, {})):
        monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", lambda *_, answer=answer: answer)
        with pytest.raises(SpecError, match="groups of its own"):
            recipe_optimizers(RECIPE, prepared(), args)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_evaluated_are_statistics_of_the_weights_that_are_evaluated(args, strategy):
    args.eval_strategy, args.eval_steps = strategy, 5
    seen = []

    class Watch(TrainerCallback):
        def on_evaluate(self, args, state, control, *, model, **_):
            seen.append(copy.deepcopy(model.net))

    model = Classifier(network())
    data = dicts()
    InOrder(model, args, eval_dataset=data, callbacks=[RecalibrateOnEval(loader(), None), Watch()]).train()
    assert len(seen) >= 2
    for net in seen:
        expected = copy.deepcopy(net)
        recalibrate(expected, batches())
        for place in (1, 4):
            torch.testing.assert_close(net[place].running_mean, expected[place].running_mean)
            torch.testing.assert_close(net[place].running_var, expected[place].running_var)


def test_training_is_the_same_with_and_without_recalibration(args):
    args.eval_strategy, args.eval_steps = "steps", 1
    nets = []
    for callbacks in ([], [RecalibrateOnEval(loader(shuffle=True), 2)]):
        torch.manual_seed(3)
        model = Classifier(nn.Sequential(network(), nn.Dropout(0.5)))
        Trainer(model, args, train_dataset=dicts(), eval_dataset=dicts(8), callbacks=callbacks).train()
        nets.append(model)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_wrong_name_is_told():
    with pytest.raises(UnknownName, match="raise, warn"):
        NormRecipe(RECIPE, undone="ignore")
