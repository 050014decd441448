"""Probes in real trainings with HF Trainer."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import TrainerCallback

from normlab.errors import SpecError, UnknownName
from normlab.integrations.transformers import NormProbe, SAMTrainer
from normlab.optim import SAM
from tests.unit.integrations.hf import Classifier, InOrder, arguments, dicts
from tests.unit.integrations.problems import network, sgd, state

PROBES = ["gradient_norm", "weight_drift", "stable_rank"]


def trained(path, probes=None, *, net=None, more=(), **options):
    torch.manual_seed(0)
    model = Classifier(network() if net is None else net)
    fit = InOrder(model, arguments(path, **options), eval_dataset=dicts(8))
    callback = None if probes is None else NormProbe(fit, probes, every=4)
    for one in filter(None, (callback, *more)):
        fit.add_callback(one)
    return fit, callback


def test_training_is_as_without_and_evaluation_is_not_measured(tmp_path):
    fit, callback = trained(tmp_path, PROBES, eval_strategy="steps", eval_steps=3)
    plain, _ = trained(tmp_path, eval_strategy="steps", eval_steps=3)
    fit.train(), plain.train()
    assert all(torch.equal(value, state(plain.model)[name]) for name, value in state(fit.model).items())
    assert [row["step"] for row in callback.probing.rows] == [0, 4, 8]
    assert callback.probing.rows[0]["norm/net.1/weight_drift/max"] == 0
    assert {key.split("/")[1] for key in callback.probing.last} == {"net.1", "net.4"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fit.model.modules())


def test_tensorboard_of_the_trainer_has_the_keys(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    fit, callback = trained(tmp_path, PROBES, report_to="tensorboard")
    fit.train()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    found = events.Scalars("norm/net.1/stable_rank")
    assert [event.step for event in found] == [0, 4, 8]
    for event, row in zip(found, callback.probing.rows, strict=True):
        assert math.isclose(event.value, row["norm/net.1/stable_rank"], rel_tol=1e-6)


def test_steps_of_sam_with_accumulation(tmp_path):
    model = Classifier(network())
    args = arguments(tmp_path, gradient_accumulation_steps=2)
    fit = SAMTrainer(model, args, train_dataset=dicts(), optimizers=(SAM(sgd(model.parameters()), model, 0.1), None))
    callback = NormProbe(fit, "gradient_norm", log=tmp_path / "rows.csv")
    fit.add_callback(callback)
    fit.train()
    assert [row["step"] for row in callback.probing.rows] == list(range(fit.state.global_step)) == list(range(6))
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 12


def test_after_an_exception_the_next_training_begins_anew(tmp_path):
    class Stops(TrainerCallback):
        on = True

        def on_step_end(self, args, state, control, **_):
            if self.on:
                raise OSError("disk full")

    stops = Stops()
    fit, callback = trained(tmp_path, PROBES, more=(stops,))
    with pytest.raises(OSError, match="disk full"):
        fit.train()
    callback.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fit.model.modules())
    stops.on = False
    fit.train()
    assert [row["step"] for row in callback.probing.rows] == [0, 4, 8]


def test_unknown_names_are_told(tmp_path):
    fit, _ = trained(tmp_path, "gradient_nrm")
    with pytest.raises(UnknownName, match="unknown probe 'gradient_nrm'; did you mean 'gradient_norm'"):
        fit.train()


def test_what_is_no_trainer_is_refused_at_once():
    with pytest.raises(SpecError, match="takes the Trainer that it is added to first; got 'x'"):
        NormProbe("x", "sigma")
