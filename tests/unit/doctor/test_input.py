"""Models and batches of all sorts: what can be run is run, and what cannot says why."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError
from normlab.surgery.wrapped import unwrap
from tests.unit.doctor import cases
from tests.unit.doctor.cases import images, loader, reached, resnet


class Wrapped(nn.Module):
    """A network whose inputs and outputs are as somebody wants them."""

    def __init__(self, give=lambda y: y) -> None:
        super().__init__()
        self.net, self.give = resnet(), give

    def forward(self, x):
        return self.give(self.net(x))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = resnet()

    def forward(self, left, right, scale: float = 1.0):
        return self.net(left - right) * scale


@dataclass
class Output:
    logits: torch.Tensor
    note: str = "a dataclass"


OUTPUTS = {
    "dict": lambda y: {"logits": y, "aux": [y, None]},
    "tuple": lambda y: (y, "text"),
    "dataclass": Output,
    "namespace": lambda y: SimpleNamespace(logits=y),
    "own-loss": lambda y: {"loss": y.sum(), "logits": y},
    "own-number": lambda y: y.sum(),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_are_no_tensor(name):
    found = normlab.doctor(Wrapped(OUTPUTS[name]), images())
    assert reached(found)
    assert found.notes == (
        ("loss: the model's own",)
        if name.startswith("own-")
        else ("loss: made up, the mean square of the outputs; no labels",)
    )


@pytest.mark.parametrize(
    "batch",
    [
        (images(), images()),
        [images(), images()],
        (images(), images(), torch.zeros(8)),
        {"left": images(), "right": images()},
    ],
    ids=["tuple", "list", "with-labels", "dict"],
)
def test_several_inputs(batch):
    assert reached(normlab.doctor(Two(), batch))


def test_labels_are_not_needed_and_left_out():
    assert reached(normlab.doctor(resnet(), (images(), torch.zeros(8, dtype=torch.long))))
    assert reached(normlab.doctor(resnet(), ({"x": images()}, torch.zeros(8))))


def test_a_batch_that_only_the_user_knows_how_to_use():
    batch = {"image": images(), "file": ["a.png"] * 8}
    assert not reached(normlab.doctor(resnet(), batch))
    assert reached(normlab.doctor(resnet(), batch, forward=lambda model, batch: model(batch["image"])))


def test_the_loaders_first_batch_is_taken():
    found = normlab.doctor(resnet(), loader=loader(16, 8))
    assert "the loader's first batch, 8x3x12x12" in found.subject
    assert "NL002" in found.clean


def test_an_iterator_is_refused_and_not_used_up():
    batches = iter([images(), images()])
    with pytest.raises(SpecError, match="the loader is an iterator, which looking at would use up"):
        normlab.doctor(resnet(), loader=batches)
    assert reached(normlab.doctor(resnet(), images(), loader=batches))
    assert len(list(batches)) == 2


@pytest.mark.parametrize("batch", ["8x3x12x12", (8, 3, 12, 12)], ids=["text", "sizes"])
def test_random_numbers_are_no_data(batch):
    found = normlab.doctor(cases.train(resnet(), 40), batch)
    reasons = {rule.id: rule.reason for rule in found.unchecked}
    assert reasons["NL001"] == "it takes data, and the batch is of random numbers"
    assert "NL010" in found.clean


def test_without_a_batch_the_static_rules_are_checked_and_the_others_listed():
    found = normlab.doctor(resnet())
    reasons = {rule.id: rule.reason for rule in found.unchecked}
    assert {"NL002", "NL005", "NL010", "NL103"} <= {
        id for id, reason in reasons.items() if reason == "no batch was given"
    }
    assert "NL003" in found.clean
    assert found.exit_code == 0
    assert len(found.clean) + len(found.unchecked) == len(normlab.doctor.RULES)


def test_half_precision_gets_a_batch_of_its_own():
    found = normlab.doctor(resnet().bfloat16(), "8x3x12x12", ignore="NL011")
    assert reached(found)


def test_a_frozen_model_has_no_loss_and_needs_none():
    model = resnet().requires_grad_(False).eval()
    assert reached(normlab.doctor(model, images()))


def test_a_compiled_model_runs_uncompiled():
    def backend(graph, inputs):
        raise AssertionError("compiled")

    assert reached(normlab.doctor(torch.compile(resnet(), backend=backend), images()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_model_is_refused_and_not_called_clean():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    for model in scripted, torch.jit.trace(resnet().eval(), images()):
        with pytest.raises(SpecError, match="the layers of a ScriptModule cannot be seen"):
            normlab.doctor(model, images())
    found = normlab.doctor(nn.Sequential(scripted, nn.BatchNorm2d(4)), images())
    assert found.notes == ("0 is a ScriptModule: the layers in it are not seen",)
    assert any("cannot be run without a trace" in rule.reason for rule in found.unchecked)
    with pytest.raises(SpecError):
        unwrap(torch.jit.trace(resnet().eval(), images()))


def test_a_model_without_norms_says_so():
    found = normlab.doctor(nn.Linear(3, 2), torch.randn(4, 3))
    assert found.exit_code == 0
    assert found.notes == ("no layer of this model is known to normalize",)

    class MyNorm(nn.Module):
        def forward(self, x):
            return x

    assert "register_norm_type makes MyNorm known" in normlab.doctor(MyNorm(), torch.randn(4, 3)).notes[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "resnet18"}, "doctor takes a torch module; got 'resnet18'"),
        ({"batch": "8 by 3"}, "8x3x32x32"),
        ({"batch": ["a", "b"]}, "should hold tensors"),
        ({"batch": torch.tensor(3.0)}, "should hold"),
        ({"loader": []}, "the loader gave no batch"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"select": "NL03"}, "did you mean 'NL"),
        ({"ignore": ["poisoned-statistic"]}, "did you mean 'poisoned-statistics'"),
        ({"optimizer": 3}, "an optimizer, or groups"),
        ({"loader": 5}, "a loader of batches, or a list of them, is wanted; got 5"),
        ({"scheduler": 5}, "a scheduler has a method step; got 5"),
        ({"select": ""}, "no rule is left to check with select=''"),
        ({"select": "NL004", "ignore": "small-batch"}, "no rule is left to check"),
        ({"select": 5}, "rules are chosen by ids or names.*; got 5"),
        ({"select": [5]}, "rules are chosen by ids or names.*; got 5"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, words):
    with pytest.raises(SpecError, match=words):
        normlab.doctor(**{"model": resnet(), **arguments})


def test_rules_are_chosen_by_id_or_name():
    for select in ("NL003,nl101", ["poisoned-statistics", "NL101"], " NL003 , lagging-statistics"):
        assert normlab.doctor(resnet(), select=select).clean == ("NL003", "NL101")
    assert normlab.doctor(resnet(), select=["NL003", "NL101"], ignore="NL101").clean == ("NL003",)
    with pytest.raises(SpecError, match="unknown rule 'NL999'") as caught:
        normlab.doctor(resnet(), select="NL999")
    assert len(str(caught.value)) < 100, "not all of them are listed"


def test_a_lazy_model_is_no_crash_of_the_rules():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    found = normlab.doctor(model, images())
    assert (found.findings, found.exit_code) == ((), 2)
    assert found.failure == "0.weight has no shape yet, being lazy: run the model once, in eval mode, before"
    assert "NL106" in found.clean
    model.eval()(images())
    assert reached(normlab.doctor(model, images()))


def test_a_model_made_in_inference_mode_is_run_as_any_other():
    with torch.inference_mode():
        model = resnet()
    assert reached(normlab.doctor(model, images()))


def test_a_linear_probe_in_eval_mode_moves_nothing():
    model = resnet().requires_grad_(False)
    model.fc.requires_grad_(True)
    [unchecked] = normlab.doctor(model.eval(), images(), select="NL008").unchecked
    assert "call model.train() first" in unchecked.reason
    assert normlab.doctor(model.train(), images(), select="NL008").exit_code == 1


def test_counters_alone_do_not_tell_statistics_taken_anew_from_those_that_lag():
    [unchecked] = normlab.doctor(cases.train(resnet(), 10), select="NL101").unchecked
    assert "35 %" in unchecked.reason
    assert unchecked.reason.endswith("unless recalibrate or update_bn took these anew: a batch of data tells")


def test_what_lags_is_measured():
    [finding] = normlab.doctor(cases.train(resnet(), 10), images(), select="NL101").findings
    assert finding.numbers["measured"] == pytest.approx(0.9**10, abs=0.02)


def test_the_fix_for_decay_is_of_the_optimizer_that_is_there():
    model = resnet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05)
    [finding] = normlab.doctor(model, optimizer=optimizer, select="NL009").findings
    groups = 'normlab.recipe("baseline").param_groups(model, lr=0.0003, weight_decay=0.05)'
    assert finding.fix == f"optimizer = AdamW({groups}, betas=(0.9, 0.95))"
    sam = normlab.optim.SAM(optimizer, model)
    assert normlab.doctor(model, optimizer=sam, select="NL009").findings[0].fix.startswith("inside SAM: AdamW(")
    about = {"normlab": normlab, "model": model, "AdamW": torch.optim.AdamW}
    exec(finding.fix, about)
    assert normlab.doctor(model, optimizer=about["optimizer"], select="NL009").clean == ("NL009",)
