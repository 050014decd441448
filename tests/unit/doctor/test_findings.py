"""The report reads well at every width, and says the same in JSON and SARIF."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import normlab
from normlab.doctor import RULES, sarif
from normlab.doctor.text import named
from tests.unit.doctor import cases
from tests.unit.doctor.cases import images, loader


@pytest.fixture(scope="module")
def findings():
    """Several at once."""
    torch.manual_seed(0)
    model = cases.train(cases.resnet(), 40)
    model(images() * float("nan"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc") or "bn2" in name)
    return normlab.doctor(
        model, images(), optimizer=cases.sgd(model.parameters(), weight_decay=0.1), loader=loader(17, 8)
    )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_too_long(findings, width):
    lines = findings.table(width).splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > 0.8 * width
    assert all(line == line.rstrip() for line in lines)


def test_the_report_says_what_where_why_and_how(findings):
    text = str(findings)
    assert "\x1b" not in text
    assert text.splitlines()[0] == "ResNet: 9 BatchNorm2d; on cpu; a batch, 8x3x12x12"
    for found in findings.findings:
        assert f"{found.id} {found.name} · {found.level}, {found.kind}" in text
        assert f"see  {found.url}" in text
    assert "NL003 poisoned-statistics · error, static" in text
    assert "in   bn1, layer*.*.bn1 (x3), layer*.*.bn2 (x3), layer*.*.downsample.* (x2)" in text
    assert "fix  normlab.freeze(model.get_submodule(name)) for each of these layers, which lasts through" in text
    assert "NL007, NL013, NL107, NL113, NL207: there is one process only: start it with torchrun" in text


def test_every_rule_is_accounted_for(findings):
    ids = [f.id for f in findings.findings] + list(findings.clean) + [rule.id for rule in findings.unchecked]
    assert sorted(ids) == sorted(RULES)
    assert bool(findings)
    assert len(findings) == len(findings.findings) >= 3


def test_one_rule_is_no_plural():
    text = str(normlab.doctor(cases.resnet(), images(), select="NL003"))
    assert "no findings, 1 rule is clean, 0 were not checked" in text
    assert "0 rules are clean, 1 was not checked:" in str(normlab.doctor(cases.resnet(), select="NL009"))


def test_sarif_points_at_no_file_of_an_installed_package():
    model = nn.Sequential(nn.BatchNorm2d(3)).train()
    model[0].running_var.fill_(float("nan"))
    found = normlab.doctor(model, select="NL003")
    assert found.source is None
    assert "physicalLocation" not in found.sarif()["runs"][0]["results"][0]["locations"][0]


def test_names_that_differ_by_numbers_are_one():
    assert named(["bn1", "layer1.0.bn1", "layer2.3.bn1", "layer1.0.bn2"]) == "bn1, layer*.*.bn1 (x2), layer1.0.bn2"
    assert named(["0", "1", "12"]) == "* (x3)"
    assert named([""]) == "the model itself"
    assert named([f"{letter}.norm" for letter in "abcdefgh"]).endswith(" and 2 more")


def test_json_holds_all_of_it(findings):
    read = json.loads(json.dumps(findings.as_json(), allow_nan=False))
    assert read["exit_code"] == 1
    assert [found["id"] for found in read["findings"]] == [f.id for f in findings.findings]
    first = read["findings"][0]
    assert first.keys() >= {"id", "name", "kind", "level", "text", "why", "fix", "url", "layers", "numbers"}
    assert read["not_checked"][0].keys() == {"id", "name", "reason"}


def test_numbers_that_json_lacks_are_texts():
    found = normlab.doctor(cases.detection_with_two_images_per_gpu().model, images(2), select="NL004")
    [finding] = found.findings
    object.__setattr__(finding, "numbers", {"noise": float("nan"), "size": 2, "name": "x"})
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["findings"][0]["numbers"] == {
        "noise": "nan",
        "size": 2,
        "name": "x",
    }


def test_sarif_is_what_ci_reads(findings, monkeypatch, tmp_path):
    log = json.loads(json.dumps(findings.sarif(), allow_nan=False))
    assert log["version"] == "2.1.0"
    [run] = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(RULES)
    assert all(rule["helpUri"].startswith("https://github.com/") for rule in rules)
    for result, found in zip(run["results"], findings.findings, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == found.id
        assert result["level"] in ("error", "warning")
        place = result["locations"][0]
        assert place["physicalLocation"]["artifactLocation"]["uri"].endswith("normlab/study/models/resnet.py")
        assert place["physicalLocation"]["region"]["startLine"] > 1
        assert [logical["fullyQualifiedName"] for logical in place["logicalLocations"]] == list(found.layers)
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert {note["associatedRule"]["id"] for note in notes} == {rule.id for rule in findings.unchecked}
    assert run["invocations"][0]["executionSuccessful"] is True


SARIF = {  # of sarif-schema-2.1.0.json what is used; "!" are required, and nothing else is allowed
    "log": {"$schema": str, "version!": str, "runs!": ["run"]},
    "run": {"tool!": "tool", "invocations": ["invocation"], "results": ["result"]},
    "tool": {"driver!": "driver"},
    "driver": {"name!": str, "version": str, "rules": ["rule"]},
    "rule": {
        "id!": str, "name": str, "shortDescription": "text", "fullDescription": "text", "help": "text",
        "helpUri": str, "defaultConfiguration": "configuration", "properties": dict,
    },
    "text": {"text!": str},
    "configuration": {"level": "level"},
    "invocation": {"executionSuccessful!": bool, "toolExecutionNotifications": ["notification"]},
    "notification": {"level": "level", "message!": "text", "associatedRule": "reference"},
    "reference": {"id": str},
    "result": {
        "ruleId": str, "ruleIndex": int, "level": "level", "message!": "text", "locations": ["location"],
        "properties": dict,
    },
    "location": {"logicalLocations": ["logical"], "physicalLocation": "physical"},
    "logical": {"fullyQualifiedName": str, "kind": str},
    "physical": {"artifactLocation": "artifact", "region": "region"},
    "artifact": {"uri": str},
    "region": {"startLine": int},
}  # fmt: skip


def follow(kind, value):
    """Is a value what the schema says it is?"""
    if kind == "level":
        assert value in ("none", "note", "warning", "error")
    elif isinstance(kind, list):
        for item in value:
            follow(kind[0], item)
    elif isinstance(kind, str):
        fields = {name.rstrip("!"): of for name, of in SARIF[kind].items()}
        assert {name.rstrip("!") for name in SARIF[kind] if name.endswith("!")} <= value.keys() <= fields.keys()
        for name, part in value.items():
            follow(fields[name], part)
    else:
        assert type(value) is kind


def test_sarif_follows_the_schema(findings):
    crashed = normlab.doctor(nn.Linear(3, 2), images())
    for found in findings, crashed, normlab.doctor(cases.resnet()):
        follow("log", json.loads(json.dumps(found.sarif(), allow_nan=False)))


def test_sarif_escapes_the_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert sarif._uri(str(tmp_path / "my nets" / "ü.py")) == "my%20nets/%C3%BC.py"
    assert sarif._uri("/else where/net.py") == "file:///else%20where/net.py"


def test_sarif_says_that_the_model_does_not_run():
    log = normlab.doctor(nn.Linear(3, 2), images()).sarif()
    [invocation] = log["runs"][0]["invocations"]
    assert (log["runs"][0]["results"], invocation["executionSuccessful"]) == ([], False)
    assert invocation["toolExecutionNotifications"][-1]["message"]["text"].startswith("RuntimeError: mat1 and mat2")


def test_the_module_is_the_function():
    from normlab.doctor import doctor

    for call in (normlab.doctor, doctor):
        assert call(cases.resnet(), select="NL003").clean == ("NL003",)
