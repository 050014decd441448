"""Every rule finds the fault as users met it, lets the repaired and the sound model pass, and is well formed."""

from __future__ import annotations

import re

import pytest

from normlab.doctor import RULES
from tests.unit.doctor.cases import FAULTY, REPAIR, SOUND

ELSEWHERE = {"NL024"} | {rule.id for rule in RULES.values() if rule.kind == "distributed"}
"""Rules that need a device or processes: test_devices, test_doctor_processes."""


def every(place):
    return [pytest.param(rule, make, id=f"{rule}-{name}") for rule in place for name, make in place[rule].items()]


@pytest.mark.parametrize(("rule", "make"), every(FAULTY))
def test_the_fault_is_found_and_measured(rule, make):
    found = make().examined(rule)
    assert [finding.id for finding in found.findings] == [rule], found
    [finding] = found.findings
    assert not finding.failed, finding.text
    assert re.search(r"\d", finding.text), "a measured number"
    assert found.exit_code == 1


@pytest.mark.parametrize(("rule", "make"), every(SOUND))
def test_a_sound_model_passes(rule, make):
    found = make().examined(rule)
    assert (found.findings, found.clean) == ((), (rule,)), found


@pytest.mark.parametrize("rule", REPAIR)
def test_the_fix_repairs_it(rule):
    faulty = next(iter(FAULTY[rule].values()))()
    found = REPAIR[rule](faulty).examined(rule)
    assert (found.findings, found.clean) == ((), (rule,)), found


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_has_both_tests(rule):
    assert rule in ELSEWHERE or (rule in FAULTY and rule in SOUND)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_is_well_formed(rule):
    assert re.fullmatch(r"NL\d{3}", rule.id)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/issues/\d+", rule.url)
    assert rule.why
    assert "\n" not in rule.fix
    assert len(rule.fix) <= 110, "one line"
    assert rule.check.__doc__
    assert rule.needs or rule.kind == "static"


def test_there_are_at_least_twenty():
    assert len(RULES) >= 20
    assert {rule.kind for rule in RULES.values()} == {"static", "one-batch", "distributed"}
