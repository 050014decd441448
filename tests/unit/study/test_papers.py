"""The study files of the papers: each loads, says what it costs, and trains."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn
from torch.nn import functional as F

from normlab import Streams
from normlab.study import Study
from normlab.study.context import Context
from normlab.study.data.examples import Examples
from normlab.study.objects import load_object

FOLDER = Path(__file__).parents[3] / "studies" / "papers"
FILES = sorted(FOLDER.glob("*.toml"))
SMALL = ("data.name=digits(train=60, validation=20)", "model.name=resnet8(width=4)", "model.stem=own")
FEW = ("train.epochs=2", "train.batch_size=32", "train.augment=[]")


def module(name):
    return load_object(f"{FOLDER / name}.py:__name__") and __import__(name)


attacks, gan, inputs = (module(name) for name in ("attacks", "gan", "inputs"))


def carried_out(study, tmp_path, arm=None):
    """What the first run of each arm, or of one, returns."""
    first = {run.arm: run for run in reversed(study.runs) if arm in (None, run.arm)}
    return {
        name: study.train(run.job, Streams(run.stream_seed), Context(tmp_path / run.key))
        for name, run in first.items()
        if not (tmp_path / run.key).mkdir()
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_loads_and_says_what_it_costs(file):
    study, text = Study.load(file), file.read_text(encoding="utf-8")
    header = text[: text.index("\n\n")].replace("\n#", "")
    assert f"normlab run studies/papers/{file.name}" in header
    assert re.search(r"Cost: .*Measured.* two cores", header)
    assert re.search("Published[:,]", header)
    assert study.protocol.question.endswith("?")
    assert ("no [published]" in header) == (study.protocol.published is None)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_published_number_belongs_to_a_point_of_the_study(file, tmp_path):
    study = Study.load(file)
    for panel in study.results(tmp_path).compare().panels:
        if panel.published is not None:
            assert panel.published.rows
            assert panel.published.elsewhere == ()


def test_table_1a_is_complete_and_runs_48_times_at_first_look():
    values = Study.load(FOLDER / "table1a.toml").protocol.published.values
    assert {point: len(arms) for point, arms in values.items()} == dict.fromkeys(
        ("train.lr=0.1", "train.lr=0.01", "train.lr=0.001"), 8
    )
    assert values["train.lr=0.1"]["γ 0.10"] == [90.80, 0.20]
    assert values["train.lr=0.001"]["base"] == [71.32, 0.60]
    overrides = ("train.epochs=2", "seeds=2", "data.limit=2000")
    assert len(Study.load(FOLDER / "table1a.toml", overrides).runs) == 48


def test_readme_lists_every_file():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for file in FOLDER.iterdir():
        if file.suffix in (".toml", ".py"):
            assert f"`{file.name}`" in readme


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("table2b_cifar10", ()),
        ("formulations", ()),
        ("sam_on_cifar10", ()),
        ("sam_wrn16", ("train.milestones=[1]",)),
        ("batch_sizes", ("model.name=resnet8(width=32)", "grid.'train.batch_size'=[32]")),
        ("beyond_batchnorm", ("grid.'model.name'=['resnet8(width=32)']", "train.milestones=[1]")),
        ("conv_norm_noise", ("train.milestones=[1]",)),
    ],
)
def test_every_arm_trains_on_digits(name, overrides, tmp_path):
    study = Study.load(FOLDER / f"{name}.toml", (*SMALL, *FEW, *overrides))
    for metrics in carried_out(study, tmp_path).values():
        assert math.isfinite(metrics["test_loss"])


@pytest.mark.parametrize("name", ["conv_norm_pgd", "input_norm"])
def test_every_arm_of_own_functions_trains_on_digits(name, tmp_path):
    overrides = [f"common.{text}" for text in (*SMALL, *FEW)]
    overrides += ["common.attacked=40", "common.train.milestones=[1]"] if name == "conv_norm_pgd" else []
    study = Study.load(FOLDER / f"{name}.toml", overrides)
    for metrics in carried_out(study, tmp_path).values():
        assert study.protocol.metric in metrics
        assert math.isfinite(metrics["test_loss"])


def test_rates_and_epochs_follow_the_batch_size(monkeypatch):
    scaled = module("scaled")
    monkeypatch.setattr(scaled, "built_in", lambda job, *_: job["train"])
    runs = {run.point[-1][1]: run.job for run in Study.load(FOLDER / "beyond_batchnorm.toml").runs}
    assert scaled.lubana(runs[256], None, None) == runs[256]["train"]
    small = scaled.lubana(runs[16], None, None)
    assert (small["lr"], small["epochs"], small["schedule"]) == (0.1 / 16, 10, "constant")
    assert scaled.linear(runs[16], None, None)["epochs"] == 60


@pytest.fixture
def classifier():
    """A linear one, of 3 × 8 × 8 pixels, with images that no attack pushes out of [0, 1]."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    return model, 0.25 + torch.rand(16, 3, 8, 8) / 2, torch.arange(16) % 5


def losses(model, images, labels):
    return F.cross_entropy(model(images), labels, reduction="none")


def test_attacks_stay_near_and_raise_the_loss(classifier):
    model, images, labels = classifier
    one = attacks.fgsm(model, images, labels, 0.1)
    many = attacks.pgd(model, images, labels, 0.1, 0.025, 20, torch.Generator().manual_seed(0))
    for attacked in (one, many):
        assert (attacked - images).abs().max() <= 0.1 + 1e-6
        assert (losses(model, attacked, labels) > losses(model, images, labels)).all()
    assert losses(model, many, labels).mean() >= losses(model, one, labels).mean() - 1e-4


def test_attacked_pixels_stay_in_their_range(classifier):
    model, _, labels = classifier
    images = torch.randint(0, 2, (16, 3, 8, 8)).float()
    for attacked in (
        attacks.fgsm(model, images, labels, 0.1),
        attacks.pgd(model, images, labels, 0.1, 0.05, 5, torch.Generator()),
    ):
        assert attacked.min() >= 0
        assert attacked.max() <= 1


def test_free_training_takes_all_steps_but_the_last_itself(classifier):
    model, images, labels = classifier
    steps = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    plain, _ = attacks.free_loss(model, images, labels, optimizer, 1)
    torch.testing.assert_close(plain, F.cross_entropy(model(images), labels))
    attacks.free_loss(model, images, labels, optimizer, 4)
    assert len(steps) == 3


def test_spectral_normalization_bounds_every_kernel():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    random = torch.get_rng_state()
    attacks.normalize_spectrally(model, 1)
    assert torch.equal(torch.get_rng_state(), random)
    for _ in range(50):
        model(torch.rand(2, 3, 9, 9))
    for conv in model:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_inputs_are_normalized_by_the_training_images():
    pixels = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8)

    train = Examples(pixels, torch.arange(50), torch.zeros(50, dtype=torch.int64))
    data = SimpleNamespace(scale=1 / 255, train=train)
    normal = inputs.by_dataset(data)(pixels / 255).double()
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)
    single = inputs.by_image(pixels / 255)
    torch.testing.assert_close(single.std((1, 2, 3)), torch.ones(50))
    assert not inputs.by_image(torch.ones(1, 3, 4, 4)).any()


def test_frechet_distance_is_that_of_normal_distributions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)), 0.3 + rng.normal(size=(400, 6))
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert gan.frechet(a, b) == pytest.approx(wanted, rel=1e-6)
    assert gan.frechet(a, a) == pytest.approx(0, abs=1e-8)
    blank = np.zeros((400, 6))  # a generator of one image
    assert gan.frechet(blank, b) == pytest.approx((b.mean(0) ** 2).sum() + np.trace(second))


ARM = {"width": 4, "lr": 2e-4, "epochs": 2, "batch_size": 16, "judge_epochs": 1, "samples": 64}
KINDS = ["none", "batch", "spectral", "conv_norm"]


@pytest.mark.parametrize("kind", KINDS)
def test_gans_share_their_start_and_learn(kind):
    pair = gan.Pair({**ARM, "discriminator": kind}, Streams(1), "cpu")
    plain = gan.Pair({**ARM, "discriminator": "none"}, Streams(1), "cpu")
    kernels = [
        [p for key, p in one.discriminator.named_parameters() if p.dim() > 1 and "affine" not in key]
        for one in (pair, plain)
    ]
    for ours, theirs in zip(*kernels, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(kernels[0][1].flatten()[:50], kernels[0][2].flatten()[:50])
    before = pair.samples(8, Streams(1))
    assert before.shape == (8, 1, 28, 28)
    losses = pair.epoch(torch.rand(40, 1, 28, 28), Streams(1), 0, 16)
    assert all(map(math.isfinite, losses.values()))
    assert not torch.equal(pair.samples(8, Streams(1)), before)


def test_an_interrupted_gan_goes_on_to_the_same_score(image_data, tmp_path, monkeypatch):
    arm = {**ARM, "discriminator": "spectral", "data": {"name": "fashion_mnist", "limit": 400}}
    whole = gan.train(arm, Streams(1), Context(tmp_path, checkpoint_seconds=math.inf))
    once = Context(tmp_path, checkpoint_seconds=0)
    monkeypatch.setattr(once, "log", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt) if done() else None)
    calls = []

    def done():
        calls.append(1)
        return len(calls) == 2

    with pytest.raises(KeyboardInterrupt):
        gan.train(arm, Streams(1), once)
    again = gan.train(arm, Streams(1), Context(tmp_path))
    assert again == whole
    assert 0 < again["fid_train"] < again["fid"]
