"""Findings as a SARIF 2.1.0 log, which GitHub and other CI systems show beside the code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from normlab import __version__
from normlab.doctor.base import RULES

if TYPE_CHECKING:
    from normlab.doctor.findings import Finding, Findings

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def log(findings: Findings) -> dict[str, Any]:
    """One run, whose results are the findings, and whose notifications are the rules that were not checked."""
    order = list(RULES)
    results = [_result(found, findings.source, order) for found in findings.findings if not found.failed]
    notes = [_notification("error", found.id, found.text) for found in findings.findings if found.failed]
    notes += [_notification("note", rule.id, f"not checked: {rule.reason}") for rule in findings.unchecked]
    notes += [_notification("error", None, findings.failure)] if findings.failure is not None else []
    driver = {"name": "normlab doctor", "version": __version__, "rules": [_rule(id) for id in order]}
    invocation = {"executionSuccessful": findings.exit_code != 2, "toolExecutionNotifications": notes}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "invocations": [invocation], "results": results}],
    }


def _rule(id: str) -> dict[str, Any]:
    rule = RULES[id]
    return {
        "id": id,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.name},
        "fullDescription": {"text": f"Why it hurts: {rule.why}."},
        "help": {"text": f"Fix: {rule.fix}. Reported in {rule.url}"},
        "helpUri": rule.url,
        "defaultConfiguration": {"level": rule.level},
        "properties": {"kind": rule.kind},
    }


def _result(found: Finding, source: tuple[str, int] | None, order: list[str]) -> dict[str, Any]:
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": name or "model", "kind": "module"} for name in found.layers]
    }
    if source is not None:
        file, line = source
        location["physicalLocation"] = {"artifactLocation": {"uri": _uri(file)}, "region": {"startLine": line}}
    return {
        "ruleId": found.id,
        "ruleIndex": order.index(found.id),
        "level": found.level,
        "message": {"text": f"{found.text}. Fix: {found.fix}"},
        "locations": [location],
        "properties": {"numbers": {key: str(value) for key, value in found.numbers.items()}},
    }


def _uri(file: str) -> str:
    """Relative to here, as CI wants it, or the whole address of a file elsewhere."""
    path = Path(file).resolve()
    here = Path.cwd()
    return quote(path.relative_to(here).as_posix()) if path.is_relative_to(here) else path.as_uri()


def _notification(level: str, id: str | None, text: str) -> dict[str, Any]:
    about = {} if id is None else {"associatedRule": {"id": id}}
    return {"level": level, "message": {"text": text}, **about}
