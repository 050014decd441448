"""A small study with a stopping rule, and what tests read of it."""

from __future__ import annotations

import json
from dataclasses import replace

import normlab
from normlab.study.agenda import LOG

ARMS = {"base": 0.0, "great": 3.0, "none": 0.0001, "bad": -3.0}
RULE = {"rule": "pocock", "looks": [4, 8, 12]}


def measure(arm, streams, context):
    return {"metric": 90 + arm + streams.numpy("init").normal() + 0.5 * streams.numpy(f"own{arm}").normal()}


def study(train=measure, **changes):
    return normlab.Study(**{"arms": ARMS, "train": train, "seeds": 12, "stopping": RULE, **changes})


def run(made, tmp_path, name="store"):
    return made.run(store=tmp_path / name, workers=0, progress=False)


def log(tmp_path, name="store"):
    path = tmp_path / name / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_time(entries):
    return [{k: v for k, v in entry.items() if k != "time"} for entry in entries]


def words(document):
    return " ".join(str(document).split())


def without_seconds(results):
    return str(replace(results.compare(), seconds=None))


def findings(results):
    return {f.code: f.text for f in results.compare().panels[0].comparisons.findings}


def seeds_run(results):
    return {arm: sum(r.arm == arm and r.key in results.finished for r in results.runs) for arm in results.arms}


def flaky(tmp_path, arm_fails, seed_fails):
    """Raises at one run until the file `repaired` is there."""

    def train(arm, streams, context):
        if arm == arm_fails and streams.seed == seed_fails and not (tmp_path / "repaired").exists():
            raise RuntimeError("out of memory")
        return measure(arm, streams, context)

    return train
