from pathlib import Path

import pytest
import tomli_w

from normlab.errors import SpecError, UnknownName
from normlab.study.plan import plan
from normlab.study.reading import load, parse_override
from normlab.study.results import definition

TEXT = """
baseline = "base"
seeds = 3
[data]
name = "digits(train=100, validation=100)"
[model]
name = "resnet8(width=4)"
[train]
epochs = 2
batch_size = 32
lr = 0.02
[arms]
base = "baseline"
small = "revisited(scale=0.1)"
fast = { recipe = "revisited(scale=0.1)", train = { lr = 0.05 } }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_reads_a_study_file(file):
    study = load(file)
    assert study.name == "tiny"
    assert study.seeds == [1, 2, 3]
    assert study.train.momentum == 0.9
    assert study.arms["fast"].train == {"lr": 0.05}


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.epoch=5", "unknown key in [train] 'epoch'; did you mean 'epochs'?"),
        ("metrik=x", "unknown key 'metrik'; did you mean 'metric'? Known: analysis"),
        ("train.lr=-1", "train.lr: got -1 (int), should be greater than 0"),
        ("train.lr=fast", "train.lr: got 'fast' (str), should be a valid number"),
        ("train.lr=nan", "train.lr: got nan (float), should be a finite number"),
        ("train.epochs=true", "train.epochs: got True (bool)"),
        ("train.epochs=0", "train.epochs: got 0 (int), should be greater than or equal to 1"),
        ("train.schedule=cosin", "did you mean 'cosine'?"),
        ("stopping.rule=pocok", "unknown value 'pocok'; did you mean 'pocock'"),
        ("arms.base.recip=x", "unknown key in [arms.base] 'recip'; did you mean 'recipe'?"),
        ("arms.base=3", "'base' should be a recipe, as text, or a table"),
        ("baseline=bas", "unknown arm 'bas'; did you mean 'base'?"),
        ("family.arms=['smal']", "unknown arm to compare 'smal'; did you mean 'small'?"),
        ("family.arms=['base']", "unknown arm to compare 'base'"),
        ("seeds=1", "needs at least 2 seeds"),
        ("seeds=[1, 1]", "listed twice"),
        ("seeds=3.5", "a number of seeds or a list of whole numbers"),
        ("seeds=[1, -2]", "a number of seeds or a list of whole numbers"),
        ("seeds=1000000000", "10,000 seeds are the most"),
        ("family.arms=['small', 'small']", "should name one arm or more, each once"),
        ("family.arms=[]", "should name one arm or more, each once"),
        ("name=a/b", "the name becomes a directory"),
        ("grid.'train.lr'=[]", "'train.lr' should list one value or more, each once"),
        ("grid.'train.lr'=[1, 1.0]", "'train.lr' should list one value or more, each once"),
        ("grid.'data.limit'=[{a=1}]", "a table cannot be varied; name its keys, as 'data.limit'"),
        ("grid.'train.lr'=[0.1, 0.1]", "'train.lr' should list one value or more, each once"),
        ("arms.''=baseline", "an arm needs a name"),
        ("epochs 5", "should read key.path=value"),
        ("=5", "should read key.path=value"),
    ],
)
def test_a_bad_value_is_named_with_its_path_and_what_would_do(file, override, part):
    with pytest.raises(SpecError) as caught:
        load(file, (override,))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("arms.small=revisitd", "arms.small: unknown recipe 'revisitd'; did you mean 'revisited'?"),
        ("arms.small='revisited(scal=0.1)'", "did you mean 'scale'?"),
        ("arms.small='revisited(scale=2)'", "arms.small:"),
        ("arms.small=baseline", "'base' and 'small' are the same"),
        ("arms.small.train.epoch=5", "did you mean 'epochs'?"),
        ("model.name='resnet9(width=4)'", "did you mean 'resnet8'?"),
        ("model.name='resnet8(width=4'", "should read name or name(key=value, ...)"),
        ("data.name=digit", "did you mean 'digits'?"),
        ("grid.'train.learning'=[1]", "unknown key to vary 'train.learning'"),
        ("grid.'train.lr'=[0.1, -1]", "train.lr: got -1 (int), should be greater than 0"),
    ],
)
def test_a_bad_name_is_found_before_anything_runs(file, override, part):
    with pytest.raises(SpecError) as caught:
        plan(load(file, (override,)), "f")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [("a = ", "is not TOML"), ("seeds = 3", "baseline is missing")],
    ids=["syntax", "missing"],
)
def test_a_broken_file_is_an_error_with_its_path(tmp_path, text, part):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=part) as caught:
        load(path)
    assert "broken.toml" in str(caught.value)


def test_unreadable_files(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"question = '\xe9'")
    for name in ("none.toml", "latin.toml", "."):
        with pytest.raises(SpecError):
            load(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("train.epochs=5", {"train": {"epochs": 5}}),
        ("train.lr = 1e-3", {"train": {"lr": 1e-3}}),
        ("question=why 'so'?", {"question": "why 'so'?"}),
        ('arms."γ 0.1"=baseline', {"arms": {"γ 0.1": "baseline"}}),
        ("seeds=[4, 5]", {"seeds": [4, 5]}),
    ],
)
def test_overrides_are_toml_or_else_text(text, tree):
    assert parse_override(text) == tree


def test_runs_come_seed_by_seed_and_hash_what_decides_the_result(file):
    runs = plan(load(file), "f")
    assert [(run.seed, run.arm) for run in runs[:4]] == [(1, "base"), (1, "small"), (1, "fast"), (2, "base")]
    assert len({run.key for run in runs}) == 9
    reworded = plan(
        load(file, ("question=else", "metric=test_loss", "analysis.better=lower", "analysis.alpha=0.01")), "f"
    )
    assert [run.key for run in reworded] == [run.key for run in runs]
    assert plan(load(file, ("seed_scheme=md5",)), "f")[0].key != runs[0].key
    assert plan(load(file, ("train.epochs=3",)), "f")[0].key != runs[0].key
    assert plan(load(file), "g")[0].key != runs[0].key


def test_defaults_written_out_or_not_are_the_same_run(file):
    long = "arms.small='revisited(lr_divisor=100, scale=0.1)'"
    assert [run.key for run in plan(load(file, (long,)), "f")] == [run.key for run in plan(load(file), "f")]


def test_a_grid_of_lists_is_one_of_values_like_any_other(file):
    runs = plan(load(file, ("grid.'train.augment'=[[], ['flip']]",)), "f")
    assert {run.point: run.job["train"].get("augment", []) for run in runs} == {
        (("train.augment", ()),): [],
        (("train.augment", ("flip",)),): ["flip"],
    }


def test_a_grid_repeats_the_whole_comparison_at_each_value(file):
    runs = plan(load(file, ("grid.'train.lr'=[0.1, 0.01]", "grid.'train.epochs'=[1, 2]")), "f")
    assert len(runs) == 3 * 3 * 4
    assert runs[0].point == (("train.lr", 0.1), ("train.epochs", 1))
    assert runs[0].job["train"]["lr"] == 0.1
    fast = next(run for run in runs if run.arm == "fast")
    assert fast.job["train"]["lr"] == 0.05  # what an arm sets itself wins over the grid


def test_the_study_in_the_report_is_a_study_file(file, tmp_path):
    study = load(file, ("seeds=[2, 5]", "grid.'train.lr'=[0.1, 0.01]", "analysis.equivalence=0.5"))
    (tmp_path / "again.toml").write_text(tomli_w.dumps(definition(study, {})), encoding="utf-8")
    again = load(tmp_path / "again.toml")
    assert again == study
    assert [run.key for run in plan(again, "f")] == [run.key for run in plan(study, "f")]
    assert definition(load(file), {})["seeds"] == 3


def test_unknown_name_lists_what_is_known():
    error = UnknownName("norm", "grup", ["batch", "group"])
    assert str(error) == "unknown norm 'grup'; did you mean 'group'? Known: batch, group."
