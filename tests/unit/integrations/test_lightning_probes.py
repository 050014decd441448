"""Probes in real trainings with Lightning."""

from __future__ import annotations

import csv
import math

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from normlab import probes as P
from normlab.errors import SpecError, UnknownName
from normlab.integrations.lightning import NormProbe, SAMModule
from normlab.optim import SAM
from tests.unit.integrations.nets import Net, loader, trainer
from tests.unit.integrations.problems import batches, loss_of, network, sgd, state

PROBES = ["gradient_norm", "weight_drift", "stable_rank"]


def by_hand(net, epochs=2):
    optimizer = sgd(net.parameters())
    with P.probe(net, PROBES, every=4) as p:
        for batch in batches() * epochs:
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()
    return p.rows


def test_rows_are_those_of_a_loop_by_hand_and_training_is_as_without(tmp_path):
    torch.manual_seed(0)
    first = network()
    nets = [network() for _ in range(3)]
    for net in nets:
        net.load_state_dict(first.state_dict())
    logger, callback = CSVLogger(tmp_path), NormProbe(PROBES, every=4, network="model")
    trainer(callback, logger=logger).fit(Net(nets[0]), loader(), loader())
    trainer().fit(Net(nets[1]), loader(), loader())
    assert all(torch.equal(value, state(nets[1])[name]) for name, value in state(nets[0]).items())
    rows = by_hand(nets[2])
    assert callback.probing.rows == rows
    assert [row["step"] for row in rows] == [0, 4, 8]
    with (tmp_path / "lightning_logs/version_0/metrics.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["norm/1/gradient_norm"]]
    assert [{key: float(line[key]) for key in rows[0]} for line in lines] == rows
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in nets[0].modules())


def test_tensorboard_has_the_keys(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger, callback = TensorBoardLogger(tmp_path), NormProbe("stable_rank")
    trainer(callback, logger=logger, max_epochs=1).fit(Net(), loader())
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert {"norm/model.1/stable_rank", "norm/model.4/stable_rank"} <= set(events.Tags()["scalars"])
    found = [(event.step, event.value) for event in events.Scalars("norm/model.1/stable_rank")]
    assert [step for step, _ in found] == list(range(6))
    values = [row["norm/model.1/stable_rank"] for row in callback.probing.rows]
    assert all(math.isclose(a, b, rel_tol=1e-6) for a, (_, b) in zip(values, found, strict=True))


def test_a_training_that_goes_on_counts_on(tmp_path):
    saved = ModelCheckpoint(tmp_path, save_last=True)
    trainer(saved, enable_checkpointing=True, max_epochs=1).fit(Net(), loader())
    callback = NormProbe("stable_rank", every=5)
    trainer(callback).fit(Net(), loader(), ckpt_path=saved.last_model_path, weights_only=False)
    assert [row["step"] for row in callback.probing.rows] == [10]


def test_accumulation_and_sam_make_steps_of_the_optimizer(tmp_path):
    class Both(SAMModule, Net):
        def configure_optimizers(self):
            return SAM(sgd(self.parameters()), self, 0.1, scope="norm")

    callback = NormProbe(["weight_drift", "gradient_norm"], log=tmp_path / "rows.jsonl")
    fit = trainer(callback, accumulate_grad_batches=2)
    fit.fit(Both(), loader())
    assert [row["step"] for row in callback.probing.rows] == list(range(fit.global_step)) == list(range(6))
    assert callback.probing.rows[0]["norm/model.1/weight_drift/max"] == 0
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 6


def test_hooks_go_when_training_raises():
    class Stops(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            raise OSError("disk full")

    net, callback = Net(), NormProbe(PROBES)
    with pytest.raises(OSError, match="disk full"):
        trainer(callback, Stops()).fit(net, loader())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    before = len(callback.probing.rows)
    trainer().fit(net, loader())
    assert len(callback.probing.rows) == before


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"probes": "stable_rnk"}, UnknownName, "unknown probe 'stable_rnk'; did you mean 'stable_rank'"),
        ({"probes": "sigma", "network": "modle"}, UnknownName, "unknown network 'modle'; did you mean 'model'"),
        ({"probes": "sigma", "every": 0}, SpecError, "every=0 should be a number of steps"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        trainer(NormProbe(**arguments)).fit(Net(), loader())
