"""Each option of `[train]` does what it says."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

import normlab
from normlab.seeding import Streams
from normlab.study.context import Context
from normlab.study.job import TrainJob
from normlab.study.train import train
from normlab.study.training import Average, Trainer
from normlab.study.training.network import layout
from tests.unit.study.training.small import job
from tests.unit.study.training.test_trainer import DROPOUT, OPTIONS, same


@pytest.fixture
def trainer(tmp_path):
    def make(arm="base", *, loss=None, **options):
        return Trainer(TrainJob.model_validate(job(arm, **options)), Streams(1), Context(tmp_path), loss=loss)

    return make


def first_batch(trainer):
    epoch = trainer.data.epoch(trainer.streams, 0)
    return trainer.data.training(epoch, epoch.order[:20])


def step(trainer):
    """One step; loss, and the gradients that the optimizer stepped with."""
    seen = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: seen.extend(
            p.grad.clone() for group in optimizer.param_groups for p in group["params"]
        )
    )
    images, labels = first_batch(trainer)
    trainer.model.train()
    loss, _ = trainer.step(images, labels, len(labels))
    return loss, seen


def norm_of(gradients):
    return torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients])).item()


def values(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights(trainer):
    dtypes = []

    def spying(net, images, labels):
        scores = net(images)
        dtypes.append(scores.dtype)
        return torch.nn.functional.cross_entropy(scores, labels), scores

    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32), ("auto", torch.float32)):
        made = trainer(precision=precision, loss=spying, epochs=1)
        made.fit()
        assert set(dtypes) == {expected}
        assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
        dtypes.clear()


@pytest.mark.parametrize(("precision", "on"), [("fp32", False), ("tf32", False), ("bf16", True)])
def test_tensor_float_32_is_off_unless_asked_for_and_put_back(trainer, precision, on):
    """On a CPU tf32 is fp32. cuDNN's own default is on."""
    before, seen = torch.backends.cudnn.allow_tf32, []

    def spying(net, images, labels):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        scores = net(images)
        return torch.nn.functional.cross_entropy(scores, labels), scores

    trainer(precision=precision, loss=spying, epochs=1).fit()
    assert set(seen) == {(on, on)}
    assert torch.backends.cudnn.allow_tf32 == before


def test_compiled_and_not_give_the_same_up_to_rounding(tmp_path, monkeypatch):
    counters = pytest.importorskip("torch._dynamo.utils").counters
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_(self, backend="aot_eager"))
    options = {"model": {"name": "tests/unit/study/training/nets.py:at_one_pixel"}, "batch_size": 25, "epochs": 2}
    options |= {"ema": 0.5, "optimizer": "sam"}
    counters.clear()
    eager = train(job(**options), Streams(1), Context(tmp_path))
    assert counters["stats"]["unique_graphs"] == 0
    context = Context(tmp_path)
    compiled = train(job(**options, compile=True), Streams(1), context)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    assert context.facts["compiled"] == "torch.compile"
    assert compiled["train_loss"] == pytest.approx(eager["train_loss"], rel=1e-4)
    assert compiled["test_loss"] == pytest.approx(eager["test_loss"], rel=1e-4)


@pytest.mark.parametrize("last", [True, False])
def test_layout_of_images_and_weights(trainer, last):
    data = {"name": "digits(train=50, validation=50)"}
    made = trainer(channels_last=last, model={"name": "resnet8(width=16)"}, data=data)
    images, _ = first_batch(made)
    three = made.data.floats(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert three.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    weights = [p for p in made.model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    layouts = {p.is_contiguous(memory_format=torch.channels_last) for p in weights}
    assert layouts == {last}
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1


def test_strided_convolutions_of_few_channels_are_not_trained_with_channels_last_on_a_cpu(trainer):
    """oneDNN writes past its workspace there: crashes and wrong gradients, at 64x64 pixels and 8 channels, say."""
    made = trainer(model={"name": "resnet8(width=8)"}, data={"name": "digits(train=50, validation=50)"})
    assert first_batch(made)[0].is_contiguous()
    assert all(p.is_contiguous() for p in made.model.parameters())
    assert layout(made.job, made.model, "cuda") == torch.channels_last


def test_the_average_is_torchs(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3))
    mine, theirs = Average(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        mine.update(model)
        theirs.update_parameters(model)
    torch.testing.assert_close(values(mine.model), values(theirs.module), rtol=0, atol=1e-6)


def test_an_averaged_networks_statistics_are_its_own(trainer):
    """Neither those of the network in training, nor their average: those of its weights on training images."""
    made = trainer(ema=0.9, epochs=2)
    made.fit()
    live, averaged = made.model, made.average.model
    epoch = made.data.epoch(made.streams, 1)
    expected = copy.deepcopy(averaged)
    normlab.recalibrate(expected, [made.data.training(epoch, part)[0] for part in epoch.order[:40].split(20)])
    for name, buffer in expected.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(dict(averaged.named_buffers())[name], buffer)
            assert not torch.equal(dict(live.named_buffers())[name], buffer)


def test_what_is_validated_and_tested_is_the_average(trainer):
    made, plain = trainer(ema=0.99, epochs=2, select="last"), trainer(epochs=2, select="last")
    made.fit(), plain.fit()
    torch.testing.assert_close(values(made.model), values(plain.model), rtol=0, atol=0)
    result = made.test()
    assert result["test_accuracy"] == made.evaluate(made.data.test).accuracy
    assert result["train_loss"] == plain.test()["train_loss"]
    assert result["test_loss"] != plain.test()["test_loss"]
    assert made.tested is made.average.model


def test_an_averaged_network_that_is_not_finite_after_the_last_step_has_diverged(trainer):
    """The loss of the epoch does not know of it yet."""
    made = trainer(ema=0.5, epochs=1)
    left = [-(-len(made.data.train) // made.job.train.batch_size)]

    def spoil(optimizer, args, kwargs):
        left[0] -= 1
        for p in made.model.parameters() if left[0] == 0 else ():
            p.data.fill_(float("nan"))

    made.optimizer.register_step_post_hook(spoil)
    with pytest.raises(normlab.Diverged, match="averaged network in epoch 1: the statistics of"):
        made.fit()


def test_an_average_of_a_network_without_running_statistics(tmp_path):
    result = train(
        job("group", arms={"group": {"norm": "group(num_groups=2)"}}, ema=0.9), Streams(1), Context(tmp_path)
    )
    assert 0 <= result["test_accuracy"] <= 100


@pytest.mark.parametrize("scope", ["all", "norm", "not_norm"])
def test_sam_steps_with_the_gradient_of_a_neighbour(trainer, scope):
    """As by hand: perturb what is in scope along the gradient, gradient there, step from where it was."""
    made, hand = trainer(optimizer=f"sam(rho=0.2, scope={scope!r})"), trainer()
    loss, gradients = step(made)
    images, labels = first_batch(hand)
    hand.model.train()
    norms = {id(p) for m in hand.model.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()}
    inside = [p for p in hand.model.parameters() if scope == "all" or (id(p) in norms) == (scope == "norm")]
    inside = [p for p in inside if p.requires_grad]
    first = torch.nn.functional.cross_entropy(hand.model(images), labels)
    first.backward()
    statistics = {name: buffer.clone() for name, buffer in hand.model.named_buffers()}
    scale = 0.2 / norm_of([p.grad for p in inside])
    with torch.no_grad():
        for parameter in inside:
            parameter.add_(parameter.grad * scale)
    hand.model.zero_grad()
    torch.nn.functional.cross_entropy(hand.model(images), labels).backward()
    order = [p for group in hand.optimizer.param_groups for p in group["params"]]
    for mine, parameter in zip(gradients, order, strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-5)
    assert loss == first
    for name, buffer in made.model.named_buffers():  # moved once
        torch.testing.assert_close(buffer, statistics[name])


def test_sam_without_a_radius_is_its_base(tmp_path):
    plain = train(job(), Streams(1), Context(tmp_path))
    same(train(job(optimizer="sam(rho=0.0)"), Streams(1), Context(tmp_path)), plain)


@pytest.mark.parametrize("optimizer", ["sgd", "sam(rho=0.5)", "adamw"])
def test_gradients_are_clipped_together_last(trainer, optimizer):
    free, clipped = (step(trainer(optimizer=optimizer, clip_grad_norm=limit)) for limit in (None, 0.01))
    assert norm_of(free[1]) > 0.1
    assert norm_of(clipped[1]) == pytest.approx(0.01, rel=1e-3)
    scale = norm_of(clipped[1]) / norm_of(free[1])
    for one, other in zip(clipped[1], free[1], strict=True):
        torch.testing.assert_close(one, other * scale, rtol=1e-3, atol=1e-8)


def test_clipping_that_never_acts_changes_no_bit(tmp_path):
    plain = train(job(), Streams(1), Context(tmp_path))
    same(train(job(clip_grad_norm=1e9), Streams(1), Context(tmp_path)), plain)


def test_label_smoothing_is_of_the_training_loss_only(trainer):
    made = trainer(label_smoothing=0.2)
    images, labels = first_batch(made)
    loss, _ = step(made)
    made = trainer(label_smoothing=0.2)
    scores = made.model.train()(images)
    logs = scores.log_softmax(1)
    expected = -0.8 * logs[torch.arange(20), labels].mean() - 0.2 * logs.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = trainer()
    validation = plain.data.validation
    assert made.evaluate(validation).loss == pytest.approx(plain.evaluate(validation).loss, rel=0.2)


def test_augmented_images_are_trained_on_and_plain_ones_evaluated(trainer):
    made, plain = trainer(augment=["crop(padding=2)"]), trainer()
    assert not torch.equal(first_batch(made)[0], first_batch(plain)[0])
    some = torch.arange(5)
    for part in (made.data.validation, made.data.test):
        assert torch.equal(made.data.evaluated(part, some)[0], plain.data.evaluated(part, some)[0])


def test_images_may_be_cropped_to_another_size(tmp_path):
    result = train(job(augment=["crop(size=6)", "flip"]), Streams(1), Context(tmp_path))
    assert 0 <= result["test_accuracy"] <= 100


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU: a tensor's value as a Python number, or a size that depends on one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        assert name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"), name
        return function(*args, **(kwargs or {}))


# SAM reads the length of the gradient where that costs nothing: on a CPU
WITHOUT_SAM = {name: {k: v for k, v in given.items() if "sam" not in str(v)} for name, given in OPTIONS.items()}


@pytest.mark.parametrize("options", WITHOUT_SAM.values(), ids=WITHOUT_SAM)
def test_nothing_waits_for_the_device_within_an_epoch(tmp_path, monkeypatch, options):
    batches, calls = Trainer._batches, []

    def watched(self, *arguments):
        calls.append(1)
        with NoWaiting():
            batches(self, *arguments)

    monkeypatch.setattr(Trainer, "_batches", watched)
    train(job(model=DROPOUT, epochs=3, **options), Streams(1), Context(tmp_path))
    assert len(calls) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_nothing_waits_for_a_gpu_within_an_epoch(tmp_path, monkeypatch, options):
    batches = Trainer._batches

    def watched(self, number, *arguments):
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # libraries set themselves up at first
        try:
            batches(self, number, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "_batches", watched)
    train(job(model=DROPOUT, epochs=3, **{"compile": False, **options}), Streams(1), Context(tmp_path, "cuda:0"))
