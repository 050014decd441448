"""Every rule finds the fault as users met it, lets the repaired and the sound model pass, and is well formed."""

from __future__ import annotations

import re

import pytest

import normlab
from normlab.doctor import RULES
from tests.unit.doctor.cases import FAULTY, REPAIR, SOUND, images

ELSEWHERE = {"NL023", "NL024", "NL028"} | {rule.id for rule in RULES.values() if rule.kind == "distributed"}
"""Rules that need a device, an older library or processes: test_elsewhere, test_doctor_processes."""
CODE = re.compile(r"normlab\.(?:convert|freeze|recalibrate|unfreeze)\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
"""A call in a fix."""


def every(place, rules=None):
    wanted = place if rules is None else rules
    return [pytest.param(rule, make, id=f"{rule}-{name}") for rule in wanted for name, make in place[rule].items()]


@pytest.mark.parametrize(("rule", "make"), every(FAULTY))
def test_the_fault_is_found_and_measured(rule, make):
    found = make().examined(rule)
    assert [finding.id for finding in found.findings] == [rule], found
    [finding] = found.findings
    assert not finding.failed, finding.text
    assert re.search(r"\d", finding.text), "a measured number"
    assert "\n" not in finding.fix
    assert len(finding.fix) <= 120, "one line"
    assert found.exit_code == 1


@pytest.mark.parametrize(("rule", "make"), every(SOUND))
def test_a_sound_model_passes(rule, make):
    found = make().examined(rule)
    assert (found.findings, found.clean) == ((), (rule,)), found


@pytest.mark.parametrize(("rule", "make"), every(FAULTY, sorted(FAULTY.keys() - REPAIR.keys())))
def test_the_fix_as_it_is_printed_repairs_it(rule, make):
    patient = make()
    [finding] = patient.examined(rule).findings
    calls = CODE.findall(finding.fix)
    assert calls, finding.fix
    batch = images() if patient.batch is None else patient.batch
    about = {"normlab": normlab, "model": patient.model, "averaged_model": patient.model, "batch": batch}
    about |= {"loader": [batch] * 30, "layers": finding.layers}
    for call in calls[: 1 if "; of a" in finding.fix else None]:  # what follows is for other models
        loop = "for name in layers: " if "for each" in finding.fix else ""
        exec(loop + call.replace("[...]", "list(layers)"), about)
    found = patient.examined(rule)
    assert not found.findings, found
    assert found.clean or "give the loader" in found.unchecked[0].reason


@pytest.mark.parametrize(
    ("rule", "make"), [(rule, make) for rule in REPAIR for make in [next(iter(FAULTY[rule].values()))]]
)
def test_the_fix_in_words_repairs_it(rule, make):
    found = REPAIR[rule](make()).examined(rule)
    assert (found.findings, found.clean) == ((), (rule,)), found


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_has_all_tests(rule):
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
