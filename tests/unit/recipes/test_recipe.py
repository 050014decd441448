"""A recipe is a value: definitions, written and read as specs, and hashed with the runs of a study."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from pathlib import Path

import pytest
from torch import nn

import normlab
from normlab.errors import SpecError
from normlab.recipes import RECIPES, SIGMA_RELU, SIGMA_RELU_PAPER, Recipe, canonical
from normlab.recipes.init_only import init_only
from normlab.recipes.revisited import revisited
from normlab.study.plan import plan
from normlab.study.reading import load

SPECS = [
    *(name if name != "norm" else "norm(to='group(num_groups=4)')" for name in RECIPES),
    "rbn(center=True)",
    "beta_boost(factor=8, train_scale=True)",
    "revisited(norms='all', scope='layer*, !layer4.*', scaled_eps=True)",
    "revisited(scale=0.05, lr_divisor=10, formulation='a2', zero_scale='overwrite')",
    "init_only(scale=1, init='keep')",
    "baseline(input_norm=False)",
]


@pytest.mark.parametrize(
    ("name", "scale", "lr_divisor"),
    [("baseline", 1, 1), ("revisited", 0.1, 100), ("lr_only", 1, 100), ("init_only", 0.1, 1)],
)
def test_definitions(name, scale, lr_divisor):
    r = normlab.recipe(name)
    assert r == Recipe(
        name,
        scale,
        lr_divisor,
        input_norm=True,
        zero_scale="keep",
        formulation="standard",
        init="fan_in",
        sigma_act=0.58,
        norms="batch",
        scope="all",
        to=None,
        train_scale=True,
        factor=1,
        scaled_eps=False,
    )


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("rbn", {"scale": 1, "lr_divisor": 1, "to": "rbn(center=False)"}),
        ("rbn(center=True)", {"to": "rbn(center=True)"}),
        ("rbn_minus", {"scale": 1, "lr_divisor": 1, "to": "rbn_minus"}),
        ("iebn", {"scale": 1, "lr_divisor": 1, "to": "iebn"}),
        ("iebn_minus", {"scale": 1, "lr_divisor": 1, "to": "iebn_minus", "input_norm": True, "init": "fan_in"}),
        ("a1", {"scale": 0.1, "lr_divisor": 100, "formulation": "a1"}),
        ("a2", {"scale": 0.1, "lr_divisor": 100, "formulation": "a2"}),
        ("frozen_scale", {"scale": 1, "train_scale": False, "factor": 1}),
        ("beta_boost", {"scale": 1, "train_scale": False, "factor": 64}),
        ("norm(to='switch')", {"scale": None, "to": "switch", "input_norm": False, "init": "keep"}),
    ],
)
def test_definitions_of_comparisons_and_controls(spec, values):
    r = normlab.recipe(spec)
    assert {key: getattr(r, key) for key in values} == values


def test_stored_runs_keep_their_hashes():
    """The keys with which these runs of `studies/digits.toml` were stored, before recipes took norms and scope."""
    study = Path(__file__).parents[3] / "studies" / "digits.toml"
    runs = plan(load(study), "normlab.study.train.train")
    first = {run.arm: run.key for run in runs if run.seed == 1}
    assert first == {
        "base": "b8b2b92b5aedde28f9be",
        "lr only": "1045d0966bda027152ef",
        "γ 0.25": "fe2bee3960ae4d697714",
        "γ 0.10": "118c74effbd27523b067",
    }


def test_canonical_leaves_out_later_arguments_at_their_defaults_alone():
    assert canonical("lr_only(norms='batch')") == canonical("lr_only") == canonical("lr_only(scope='all')")
    assert canonical("lr_only(norms='all')") != canonical("lr_only")
    assert normlab.recipe(canonical("a1(scope='bn*')")) == normlab.recipe("a1(scope='bn*')")


@pytest.mark.parametrize("spec", SPECS)
def test_repr_evaluates_back(spec):
    r = normlab.recipe(spec)
    assert normlab.recipe(repr(r)) == r
    assert repr(normlab.recipe(repr(r))) == repr(r)


@pytest.mark.parametrize("spec", SPECS)
def test_immutable_hashable_copied_and_pickled(spec):
    r = normlab.recipe(spec)
    assert len({r, copy.deepcopy(r), pickle.loads(pickle.dumps(r)), normlab.recipe(spec)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.scale = 0.5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("revisited(scale=0)", r"'revisited': scale=0.0 should be a number in \(0, 1\]"),
        ("revisited(scale=1.5)", r"scale=1.5 should be a number in \(0, 1\]"),
        ("init_only(scale=-0.1)", r"'init_only': scale=-0.1 should be"),
        ("lr_only(lr_divisor=0)", "lr_divisor=0.0 should be a number >= 1; use 1 for the full rate"),
        ("lr_only(lr_divisor=0.5)", "lr_divisor=0.5 should be a number >= 1"),
        ("baseline(sigma_act=0)", "sigma_act=0.0 should be a number > 0"),
        ("revisited(zero_scale='kep')", "zero_scale='kep' should be 'keep' or 'overwrite'"),
        ("revisited(formulation='a3')", "formulation='a3' should be"),
        ("revisited(input_norm='no')", "input_norm='no' should be"),
        ("revisited(scal=0.1)", "unknown argument of recipe 'revisited': 'scal'; did you mean 'scale'"),
        ("baseline(scale=0.1)", "unknown argument of recipe 'baseline': 'scale'"),
        ("a1(norms='all')", "norms='all' should be 'batch': formulation 'a1' is one of BatchNorm alone"),
        ("revisited(norms='group')", "norms='group' should be"),
        ("revisited(scope='bn1, ')", "scope='bn1, ' should be 'all' or patterns of layer names"),
        ("revisited(scope='!')", "scope='!' should be 'all' or patterns"),
        ("norm", "recipe 'norm' lacks to"),
        ("norm(to='grup')", "unknown norm 'grup'; did you mean 'group'"),
        ("norm(to='group(groups=2)')", "unknown argument of norm 'group': 'groups'; did you mean 'num_groups'"),
        ("norm(to='weight_norm', scope='a')", "scope choose norms, and weight_norm replaces convolutions"),
        ("beta_boost(factor=0)", "factor=0.0 should be a number > 0, 64 in airbench"),
        ("revisitd", "unknown recipe 'revisitd'; did you mean 'revisited'"),
    ],
)
def test_specs_that_cannot_be(spec, message):
    with pytest.raises(SpecError, match=message):
        normlab.recipe(spec)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": "0.1"}, "scale='0.1' should be a number"),
        ({"scale": True}, "scale=True should be a number"),
        ({"scale": math.nan}, "scale=nan should be a number"),
        ({"lr_divisor": math.inf}, "lr_divisor=inf should be a number >= 1"),
        ({"input_norm": 1}, "input_norm=1 should be True or False"),
        ({"zero_scale": "kep"}, "recipe 'revisited': unknown zero_scale 'kep'; did you mean 'keep'"),
        ({"init": "fanin"}, "unknown init 'fanin'; did you mean 'fan_in'"),
    ],
)
def test_values_that_cannot_be_in_python_either(values, message):
    with pytest.raises(SpecError, match=message):
        revisited(**values)


def test_sigma_of_relu():
    assert pytest.approx(0.583819, abs=5e-7) == SIGMA_RELU
    assert round(SIGMA_RELU, 2) == SIGMA_RELU_PAPER == init_only().sigma_act


def test_the_function_and_the_spec_are_the_same_recipe():
    assert revisited(scale=0.5) == normlab.recipe("revisited(scale=0.5)")
    assert isinstance(
        normlab.recipe("revisited").prepare(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))), nn.Module
    )
