"""Norms whose affine part is predicted for each example: Attentive Norm and ILM-Norm."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

from tests.golden import Case
from tests.golden.claim import Claim, claimed, new_layer, our_names
from tests.golden.claims.batch import running
from tests.golden.claims.instance import divisors, fitting

HSIGMOID = 2
"""Our number for linear map, norm, hsigmoid: the one attention that the refactored release has, under 0 and 1."""


def names_of(case: Case) -> dict[str, str | None]:
    """`<whatever>.attention.1.weight` is `attention.1.weight`: the steps are numbered alike."""
    inside = {name: re.findall(r"\battention\.\d+\..*", name) for name in our_names(case)}
    return our_names(case) | {name: found[0] for name, found in inside.items() if found}


def _attentive(case: Case, **options: Any) -> Claim:
    """The norm of the attention is over the batch if there are running statistics inside."""
    by_batch = any(name.startswith("buf0.") and ".attention." in name for name in case.arrays)
    gap = not case.told("use_rsd", "gap" not in case.kind.split("_"))
    layer = new_layer(
        "attentive",
        case,
        num_affine=_affine_maps(case),
        mode=case.told("attention_mode", HSIGMOID) if case.cls.startswith("Mixture") else HSIGMOID,
        attend="mean" if gap else "rsd",
        attention_norm="batch" if by_batch else "group",
        affine=True,
        bias=True,
        **options,
    )
    return claimed(case, layer, names_of(case))


def _affine_maps(case: Case) -> int:
    return case.by_role("param")["gammas"].shape[0]


def _batch_backbone(case: Case) -> Claim:
    return _attentive(case, **running(case))


def _group_backbone(case: Case) -> Claim:
    """With the two numbers of groups that give y_train, since the refactored release's are not told."""
    common = {"backbone": "group", "eps": case.eps()}
    inside = divisors(_affine_maps(case), case.told("num_groups_attn"))
    pairs = product(divisors(case.channels, case.told("num_groups")), inside)
    return fitting(case, (_attentive(case, num_groups=g, attention_groups=a, **common) for g, a in pairs))


def _predicted(case: Case) -> Claim:
    backbone = {"gn": "group", "in": "instance", "ln": "layer"}[case.cls.partition("_")[2]]
    told = {key: case.told(key) for key in ("num_groups", "key_group_size") if case.told(key)}
    layer = new_layer("ilm", case, backbone=backbone, embedding=case.told("embed_size"), eps=case.eps(), **told)
    return claimed(case, layer)


LAYERS = {
    **dict.fromkeys(("MixtureBatchNorm2d", "AttnBatchNorm2d"), _batch_backbone),
    **dict.fromkeys(("MixtureGroupNorm", "AttnGroupNorm"), _group_backbone),
    **dict.fromkeys(("ilm_gn", "ilm_in", "ilm_ln"), _predicted),
}
"""By class in the original code."""
