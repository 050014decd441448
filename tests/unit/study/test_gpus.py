"""Which GPUs runs get; the GPUs are pretended."""

import pytest
import torch

from normlab.errors import SpecError, Unavailable
from normlab.study.executors import gpus
from normlab.study.executors.gpus import Share, placed, seats, share_of
from normlab.study.executors.local import team_of
from normlab.study.executors.ray import takes
from normlab.study.run import Options


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setattr(gpus, "visible", lambda: ["4", "5", "6", "7"])


@pytest.mark.parametrize(
    ("options", "share", "asked"),
    [
        ({}, Share(1, 1), {"CPU": 1, "GPU": 1}),
        ({"gpus": 0.25, "threads": 2}, Share(1, 4), {"CPU": 2, "GPU": 0.25}),
        ({"gpus": 1 / 3}, Share(1, 3), {"CPU": 1, "GPU": 1 / 3}),
        ({"gpus": 0.6}, Share(1, 1), {"CPU": 1, "GPU": 0.6}),
        ({"gpus": 2.0}, Share(2, 1), {"CPU": 1, "GPU": 2}),
        ({"gpus": 1.0, "devices": 2}, Share(2, 1), {"CPU": 2, "GPU": 2}),
        ({"gpus": 0.5, "devices": 2}, Share(2, 2), {"CPU": 2, "GPU": 2}),
        ({"memory": 0.5}, Share(1, 1), {"CPU": 1, "GPU": 1, "memory": 2**29}),
    ],
    ids=str,
)
def test_what_a_run_takes(options, share, asked):
    assert share_of(Options(device="cuda", **options)) == share
    assert takes(Options(device="cuda", **options)) == asked


def test_runs_are_spread_before_they_share(four):
    assert seats(Share(1, 2), "cuda", None) == [["4"], ["5"], ["6"], ["7"]] * 2
    assert seats(Share(2, 1), "cuda", None) == [["4", "5"], ["6", "7"]]
    assert seats(Share(1, 1), "cuda:2", None) == [["6"]]
    assert seats(Share(1, 1), "cuda:2", 3) == [["6"]] * 3


def test_a_worker_sees_its_own_gpus_only(four):
    team = team_of(Options(device="cuda", gpus=1.0, devices=2), None)
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in team] == ["4,5", "6,7"]
    assert {worker.options.device for worker in team} == {"cuda:0"}


def test_more_gpus_than_there_are(four):
    with pytest.raises(SpecError, match="a run takes 8 GPUs, and there are 4 to use here"):
        seats(Share(8, 1), "cuda", None)
    with pytest.raises(SpecError, match="there are 4 GPUs here, cuda:0 to cuda:3"):
        seats(Share(1, 1), "cuda:4", None)


@pytest.mark.parametrize(
    ("asked", "share", "there", "device"),
    [("auto", 0.0, True, "cpu"), ("auto", 0.5, True, "cuda"), ("auto", 0.5, False, "cpu"), ("cuda", 0.0, True, "cuda")],
)
def test_auto_is_a_gpu_for_runs_that_ask_for_one(asked, share, there, device):
    assert placed(Options(device=asked, gpus=share), there).device == device


def test_a_device_of_another_name():
    with pytest.raises(SpecError, match="device 'gpu': should be auto, cpu, cuda, cuda:1"):
        placed(Options(device="gpu"), gpus=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_at_all():
    with pytest.raises(Unavailable, match=r"there is no GPU to run on .*; --device cpu"):
        gpus.visible()
