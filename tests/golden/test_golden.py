"""Every stored case replays, and the command tells apart what does and what does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden import HERE, cases, load
from tests.golden.__main__ import main
from tests.golden.record import record, write
from tests.golden.replay import replay

AFFINE = {"weight": "gamma", "bias": "beta"}
TORCH = {
    "batch_2d": (nn.BatchNorm1d(5, eps=1e-2, momentum=0.3), (7, 5)),
    "batch_5d": (nn.BatchNorm3d(3, affine=False), (2, 3, 2, 1, 3)),
    "batch_untracked": (nn.BatchNorm2d(3, track_running_stats=False), (1, 3, 2, 2)),
    "batch_cumulative": (nn.BatchNorm1d(4, momentum=None), (3, 4, 5)),
    "batch_frozen_bias": (nn.BatchNorm1d(4), (3, 4)),
    "group": (nn.GroupNorm(3, 6, eps=1e-3), (2, 6, 5)),
    "group_each": (nn.GroupNorm(6, 6, affine=False), (3, 6, 2, 3)),
    "group_all": (nn.GroupNorm(1, 6), (3, 6)),
    "instance": (nn.InstanceNorm1d(5), (3, 5, 7)),
    "instance_tracked": (nn.InstanceNorm3d(2, affine=True, track_running_stats=True, momentum=0.4), (3, 2, 2, 3, 1)),
    "layer": (nn.LayerNorm((4, 7)), (3, 4, 7)),
    "layer_2d": (nn.LayerNorm(9, elementwise_affine=False), (5, 9)),
}
"""Layers of torch, of other shapes and arguments than the stored cases."""


class Switch(nn.Module):
    """Switchable Norm from its formulas, with exact variances or the authors'."""

    def __init__(self, c: int, ddof: int, keep: float, using_bn: bool = True) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(1, c, 1, 1)), nn.Parameter(torch.zeros(1, c, 1, 1))
        self.w_mean, self.w_var = nn.Parameter(torch.ones(2 + using_bn)), nn.Parameter(torch.ones(2 + using_bn))
        self.ddof, self.keep, self.using_bn = ddof, keep, using_bn
        if using_bn:
            self.register_buffer("running_mean", torch.zeros(1, c, 1))
            self.register_buffer("running_var", torch.zeros(1, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        mean, var = flat.mean(2, keepdim=True), flat.var(2, correction=self.ddof, keepdim=True)
        parts = [(mean, var), _pooled(mean, var, 1)]
        if self.using_bn and self.training:
            parts.append(_pooled(mean, var, 0))
            for running, newest in zip((self.running_mean, self.running_var), parts[-1], strict=True):
                running.mul_(self.keep).add_((1 - self.keep) * newest.detach())
        elif self.using_bn:
            parts.append((self.running_mean, self.running_var))
        mean, var = (
            sum(weight * part[i] for weight, part in zip(logits.softmax(0), parts, strict=True))
            for i, logits in enumerate((self.w_mean, self.w_var))
        )
        return ((flat - mean) / (var + 1e-5).sqrt()).view_as(x) * self.gamma + self.beta


def _pooled(mean: Tensor, var: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    over = mean.mean(dim, keepdim=True)
    return over, (var + mean.square()).mean(dim, keepdim=True) - over.square()


RESULTS = ("y", "dx", "grad", "buf1", "buf2")
SWITCH = {"gamma": "gamma", "beta": "beta", "w_mean": "logits_mean", "w_var": "logits_var"}


def status(capsys, directory) -> tuple[int, list[str]]:
    code = main([str(directory)])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("case", cases("*"), ids=lambda case: case.name)
def test_replays(case):
    result = replay(case)
    assert result.status == "matched", str(result)
    assert "not compared:" not in result.detail


@pytest.mark.parametrize("name", TORCH)
def test_other_shapes_and_arguments_replay(name, tmp_path, capsys):
    module, shape = TORCH[name]
    if name == "batch_frozen_bias":
        module.bias.requires_grad_(False)
    told = {key: getattr(module, key) for key in ("eps", "momentum") if hasattr(module, key)}
    told["groups"] = 2  # which is wrong, as in the stored cases
    record(tmp_path / "any.npz", module, shape, ctor=told, roles=AFFINE)
    note = " (batches are counted, theirs are not)" if name == "instance_tracked" else ""
    assert status(capsys, tmp_path) == (0, [f"matched   any{note}", "1 matched, 0 failed, 0 unclaimed of 1 cases"])


@pytest.mark.parametrize("using_bn", [True, False])
def test_another_switch_norm_replays(using_bn, tmp_path, capsys):
    origin = {"kind": "authors", "cls": "SwitchNorm2d"}
    told = {"momentum": 0.6, "using_bn": using_bn}
    record(tmp_path / "any.npz", Switch(5, 1, 0.6, using_bn), (3, 5, 2, 3), origin=origin, ctor=told, roles=SWITCH)
    assert status(capsys, tmp_path)[0] == 0


@pytest.mark.parametrize("array", [key for key in load("bn_2d").arrays if key.startswith(RESULTS)])
def test_an_array_that_is_off_fails(array, tmp_path, capsys):
    case = load("bn_2d")
    edited = case.arrays[array].astype(float) + 0.001
    write(tmp_path / "edited.npz", case.meta, case.arrays | {array: edited})
    code, (line, _) = status(capsys, tmp_path)
    assert code == 1
    assert line.startswith(f"failed    edited ({array} off by 1.00e-03, allowed ")


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ({"origin": {"kind": "authors", "cls": "NewNorm"}}, "unclaimed edited (kind 'bn', class 'NewNorm')"),
        ({"origin": {"kind": "formula", "cls": ""}, "canonical": {"kind": "new"}}, "unclaimed edited (kind 'new')"),
        ({"ctor": {"num_features": 8, "eps": 0.5}}, "failed    edited (dx off by "),
        ({"roles": {}, "frozen_params": ["bias"]}, "failed    edited (grad.bias is missing)"),
        ({"expect": "raises", "exception": "KeyError", "message": "'x'"}, "unclaimed edited"),
    ],
    ids=["class", "kind", "eps", "frozen", "exception"],
)
def test_what_nothing_claims_or_does_not_match_is_told(edit, line, tmp_path, capsys):
    case = load("bn_2d")
    write(tmp_path / "edited.npz", case.meta | edit, case.arrays)
    write(tmp_path / "good.npz", case.meta, case.arrays)
    code, lines = status(capsys, tmp_path)
    assert code == 1
    assert lines[0].startswith(line)
    assert lines[1] == "matched   good"


def test_a_layer_that_writes_to_its_input_fails(monkeypatch):
    monkeypatch.setattr("normlab.layers.batch.BatchNorm.forward", lambda self, x: x.mul_(1.0).add_(1.0))
    assert "more differ" in replay(load("bn_2d")).detail


def test_an_array_that_nobody_knows_is_named():
    case = load("bn_2d")
    result = replay(replace(case, arrays=case.arrays | {"y_other": np.zeros(3)}))
    assert (result.status, result.detail) == ("matched", "not compared: y_other")


def test_a_file_that_cannot_be_read_fails(tmp_path, capsys):
    (tmp_path / "broken.npz").write_bytes(b"no zip file")
    code, lines = status(capsys, tmp_path)
    assert code == 1
    assert lines[0].startswith("failed    broken (cannot be read: ")


@pytest.mark.parametrize("size", [[1, 5], [1, 2, 1]], ids=str)
@pytest.mark.parametrize("cls", ["BatchNorm1d", "RepresentativeBatchNorm2d", "VN_self", "MixtureBatchNorm2d"])
def test_other_sizes_of_one_value_raise(cls, size, tmp_path, capsys):
    message = f"Expected more than 1 value per channel when training, got input size torch.Size({size})"
    meta = {"origin": {"cls": cls}, "expect": "raises", "exception": "ValueError", "message": message}
    write(tmp_path / "any.npz", meta, {})
    assert status(capsys, tmp_path)[1][0] == "matched   any"


@pytest.mark.parametrize("cls", ["ScaleBatchNorm2d", "SwitchNorm2d", "BAN2d"])
@pytest.mark.parametrize("given", [1, 2, 3, 5, 6])
def test_inputs_of_other_dimensions_are_accepted_from_2_to_5(given, cls, tmp_path, capsys):
    meta = {"origin": {"cls": cls}, "expect": "raises", "exception": "ValueError"}
    write(tmp_path / "any.npz", meta | {"message": f"expected 4D input (got {given}D input)"}, {})
    assert status(capsys, tmp_path)[0] == 0


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["."], ["missing"]], ids=str)
def test_no_cases_is_an_error_of_its_own(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_the_command(tmp_path):
    case = load("bn_2d")
    write(tmp_path / "edited.npz", case.meta, case.arrays | {"y_train": case.arrays["dy"]})
    command = [sys.executable, "-m", "tests.golden", str(tmp_path)]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 matched, 1 failed, 0 unclaimed of 1 cases"
