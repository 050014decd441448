from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from normlab.cli import main

PILOT = "arm,seed,acc\n" + "".join(
    f"{arm},{seed},{value}\n"
    for arm, values in {"base": (1, 2, 3, 4), "a": (2, 4, 3, 6), "b": (1, 4, 2, 6)}.items()
    for seed, value in enumerate(values)
)


@pytest.fixture
def pilot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pilot.csv").write_text(PILOT)


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["power", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    ("arguments", "effect", "delta", "seeds", "power"),
    [
        ("--effect 0.5", 0.5, None, 27, 0.8119),
        ("--effect 0.5 --power 0.9", 0.5, None, 36, 0.9),
        ("--effect -0.5", -0.5, None, 27, 0.8119),
        ("--effect 0.5 --two-sided", 0.5, None, 34, 0.8078),
        ("--effect 2", 2.0, None, 5, 0.8913),  # the t-test alone would do with 4, the exact test cannot
        ("--effect 0.7 --seeds 15", 0.7, None, 15, 0.8243),
        ("--seeds 15", 0.6755, None, 15, 0.8),
        ("--seeds 15 --two-sided", 0.7780, None, 15, 0.8),
        ("--seeds 15 --sd 2 --rho 0.5", 0.6755, 1.3509, 15, 0.8),
        ("--delta 1 --sd 1 --rho 0.5", 1.0, 1.0, 8, 0.8162),
        ("--delta 1 --sd 1", 0.7071, 1.0, 14, 0.8092),
        ("--delta 1 --sd 1 --family 3", 0.7071, 1.0, 20, 0.8),
        ("--effect 0.001", 0.001, None, None, 0.8),
    ],
)
def test_gives_what_is_missing(arguments, effect, delta, seeds, power):
    (found,) = json.loads(call(*arguments.split(), "--json"))["plans"]
    assert found["seeds"] == seeds
    assert found["effect"] == pytest.approx(effect, abs=1e-4)
    assert found["delta"] == (delta if delta is None else pytest.approx(delta, abs=2e-4))
    assert found["power"] == pytest.approx(power, abs=0.012)


@pytest.mark.parametrize(
    ("options", "effects"), [((), {"a": 0.9447, "b": 0.3618}), (("--delta", "2"), {"a": 2.0889, "b": 1.3333})]
)
def test_a_pilot_gives_a_plan_per_arm(pilot, options, effects):
    plans = json.loads(call("--pilot", "pilot.csv", "--json", *options))["plans"]
    assert {p["arm"]: pytest.approx(p["effect"], abs=1e-4) for p in plans} == effects


def test_text_answers_first_and_then_shows_a_table():
    lines = call("--effect", "0.5").splitlines()
    assert lines[0] == "27 paired seeds find d_z 0.5 with power 0.81"
    assert "takes 5 seeds or more" in lines[1]
    assert [line.split()[0] for line in lines[5:]] == ["5", "8", "10", "15", "20", "27", "30", "50"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "too little is given. For the seeds needed: --effect"),
        ("--power 0.9", "too little is given"),
        ("--effect 1 --seeds 5 --power 0.5", "effect, seeds and power are all given"),
        ("--effect 1 --delta 1 --sd 1", "given more than once"),
        ("--effect 1 --rho 0.5", "given more than once"),
        ("--delta 1", "--delta 1 says nothing without a spread"),
        ("--rho 0.5 --seeds 5", "--rho says nothing without --sd"),
        ("--sd 1", "--sd needs --delta D"),
        ("--sd -1 --delta 1", "sd -1.0 given"),
        ("--sd 1 --rho 1 --delta 1", "rho 1.0 given"),
        ("--pilot pilot.csv --sd 1", "--pilot gives the SD"),
        ("--pilot pilot.csv --baseline bas", "unknown arm 'bas'; did you mean 'base'"),
        ("--baseline base --effect 1", "add --pilot"),
        ("--effect 0", "--effect 0 given"),
        ("--effect nan", "--effect nan given"),
        ("--effect 1 --alpha 5", "alpha 5.0 given"),
        ("--effect 1 --power 80", "power 80.0 given"),
        ("--effect 1 --family 0", "family 0 given"),
        ("--seeds 1", "two or more"),
        ("--seeds 5 --power 0.01", "not above alpha"),
    ],
)
def test_too_little_and_too_much_are_refused(pilot, arguments, words):
    shown = call(*arguments.split(), code=2)
    assert shown.startswith("Error: ")
    assert words in shown


def test_a_pilot_without_spread_is_refused(pilot, tmp_path):
    (tmp_path / "flat.csv").write_text("arm,seed,acc\nbase,1,1\nbase,2,2\na,1,2\na,2,3\n")
    assert "no spread to plan with" in call("--pilot", "flat.csv", code=2)


def test_loads_neither_torch_nor_scipy_stats():
    program = "import sys; from normlab.cli import main; main(['power', '--seeds', '9'], standalone_mode=False); " + (
        "print([m for m in ('torch', 'scipy.stats', 'pydantic', 'rich') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize("options", [("--seeds", "2", "--alpha", "1e-9"), ("--effect", "0.5", "--alpha", "1e-20")])
def test_levels_out_of_reach_end(options):
    assert CliRunner().invoke(main, ["power", *options]).exit_code in (0, 2)
