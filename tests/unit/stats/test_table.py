from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from normlab.errors import DataError, SpecError
from normlab.study.stats import find_baseline, read_csv

LONG = "arm,seed,test_accuracy\nbase,1,90.1\nbase,2,90.2\na,1,91.5\na,2,91\n"
EXPECTED = np.array([[90.1, 90.2], [91.5, 91.0]])

READABLE = {
    "long": (LONG, {}),
    "semicolon": (LONG.replace(",", ";"), {}),
    "tab": (LONG.replace(",", "\t"), {}),
    "bom": ("\ufeff" + LONG, {}),
    "crlf-and-blank-lines": (LONG.replace("\n", "\r\n\r\n"), {}),
    "blanks-and-quotes": ('arm , "seed", test_accuracy\n"base", 1 ,90.1\nbase,2,90.2\na,1,91.5\na,2,91\n', {}),
    "percent-signs": (LONG.replace("90.1", "90.1%"), {}),
    "other-names": (LONG.replace("arm,seed,test_accuracy", "Recipe,Run,Test Accuracy"), {}),
    "named": (LONG.replace("arm,seed,test_accuracy", "x,y,z"), {"arm_column": "x", "seed_column": "y", "metric": "z"}),
    "only-number-left": (LONG.replace("test_accuracy", "top1").replace("\n", ",note\n"), {}),
    "pandas-index": ("".join(f"{k or ''},{line}\n" for k, line in enumerate(LONG.splitlines())), {}),
    "of-normlab": (
        "panel,arm,seed,metric,value,status\n,base,1,acc,90.1,ok\n,base,2,acc,90.2,ok\n,a,1,acc,91.5,ok\n,a,2,acc,91,diverged\n",
        {},
    ),
    "wide-by-seed": ("seed,base,a\n1,90.1,91.5\n2,90.2,91\n", {}),
    "wide-with-an-arm-called-group": ("seed,base,group\n1,90.1,91.5\n2,90.2,91\n", {}),
    "wide-by-arm": ("recipe,seed1,seed2\nbase,90.1,90.2\na,91.5,91\n", {}),
    "wide-by-arm-numbers": ("recipe,1,2\nbase,90.1,90.2\na,91.5,91\n", {}),
}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "r.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(("text", "given"), READABLE.values(), ids=list(READABLE))
def test_layouts_that_are_understood(text, given, write):
    found = read_csv(write(text), **given)
    np.testing.assert_array_equal(found.values, EXPECTED)
    assert found.arms in {("base", "a"), ("base", "group")}
    assert [seed[-1] for seed in found.seeds] == ["1", "2"]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(LONG.encode())))
    np.testing.assert_array_equal(read_csv("-").values, EXPECTED)


@pytest.mark.parametrize(
    ("name", "values", "unit"),
    [
        ("test_accuracy", "90,91,92,93", "%"),
        ("acc", "0.9,0.91,0.92,0.93", ""),
        ("top1 %", "90,91,92,93", "%"),
        ("loss", "3,2,4,5", ""),
    ],
)
def test_unit(name, values, unit, write):
    cells = zip("bbaa", "1212", values.split(","), strict=True)
    assert read_csv(write(f"arm,seed,{name}\n" + "".join(f"{','.join(c)}\n" for c in cells))).unit == unit


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "None"])
def test_an_empty_cell_is_a_missing_run(cell, write):
    found = read_csv(write(LONG.replace("91.5", cell)))
    assert np.isnan(found.values[1, 0])
    assert not found.diverged


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-Infinity", "1e999"])
@pytest.mark.parametrize(("better", "worst"), [("higher", 90.1), ("lower", 91.0)])
def test_a_run_that_is_not_finite_diverged_and_counts_as_the_worst(cell, better, worst, write):
    found = read_csv(write(LONG.replace("91.5", cell)), better=better)
    assert found.values[1, 0] == worst
    assert found.diverged == {("a", "1")}
    assert found.diverged_as == f"the worst value in the table, {worst:g}"


def test_a_row_that_is_not_there_is_a_missing_run(write):
    found = read_csv(write(LONG + "a,3,91.2\n"))
    assert found.seeds == ("1", "2", "3")
    assert np.isnan(found.values[0, 2])


def test_normlabs_own_status_is_read(write):
    text = "arm,seed,metric,value,status\nbase,1,loss,1,ok\nbase,2,loss,,failed\na,1,loss,9,diverged\na,2,loss,2,ok\n"
    found = read_csv(write(text))
    assert (found.metric, found.failed, found.diverged) == ("loss", {("base", "2")}, {("a", "1")})
    assert found.values[1, 0] == 9


BAD = {
    "empty": ("", {}, "the file is empty; wanted: a header and one row per run"),
    "header-only": ("arm,seed,acc\n", {}, "nothing below the header"),
    "bytes": (b"arm,seed,acc\nbase,1,90\nb\xe9,1,90\n", {}, r"line 3: byte 0xe9 is not UTF-8; save the file as UTF-8"),
    "fields": (LONG + "a,3\n", {}, r"line 6: 2 fields where the header has 3 \(arm, seed, test_accuracy\)"),
    "quote": (LONG + 'a,"3,91\n', {}, r"line 6: not readable as CSV"),
    "nameless": ("arm,,acc\nbase,1,90\na,1,91\n", {}, "line 1: column 2 has no name"),
    "same-name": ("arm,seed,acc,acc\nbase,1,90,90\n", {}, "line 1: two columns are called 'acc'"),
    "text": (
        LONG.replace("91.5", "good"),
        {},
        "line 4, column 'test_accuracy': 'good' is not a number; leave it empty",
    ),
    "decimal-comma": (
        LONG.replace(",", ";").replace("91.5", "91,5"),
        {},
        "line 4, column 'test_accuracy': '91,5' is not a number; write decimals with a point",
    ),
    "huge": (LONG.replace("91.5", "1e308"), {}, "line 4, column 'test_accuracy': 1e308 is too large"),
    "share-and-percent": (
        "arm,seed,acc\na,1,90%\nb,1,0.91\na,2,90%\nb,2,0.9\n",
        {},
        "line 3, column 'acc': '0.91', while '90%' stands in line 2; write shares or %",
    ),
    "repeated": (LONG + "a,1,92\n", {}, r"lines 4 and 6 both hold arm 'a' with seed '1'; keep one\..*--arm-column"),
    "repeated-wide": ("arm,1,2\nbase,1,2\nbase,3,4\n", {}, "lines 2 and 3 both hold arm 'base' with seed '1'"),
    "one-arm": ("arm,seed,acc\na,1,90\na,2,91\n", {}, "only one arm, 'a'; two are the least.*Columns: arm, seed, acc"),
    "one-seed": ("arm,seed,acc\na,1,90\nb,1,91\n", {}, "only one seed, '1'; two are the least"),
    "unpaired": ("arm,run,acc\na,1,90\nb,2,91\n", {}, "no two arms have a seed in common"),
    "no-arm-named": (LONG + ",3,91\n", {}, "line 6: no arm is named; fill it in"),
    "no-seed-named": (LONG + "a,,91\n", {}, "line 6: no seed is named; fill it in"),
    "no-number": ("arm,seed,acc\na,1,nan\nb,1,nan\na,2,\nb,2,\n", {}, "column 'acc' holds no finite number"),
    "metric-unknown": (
        LONG,
        {"metric": "test_acuracy"},
        "--metric: unknown column 'test_acuracy'; did you mean 'test_accuracy'",
    ),
    "arm-unknown": (LONG, {"arm_column": "amr"}, "--arm-column: unknown column 'amr'; did you mean 'arm'"),
    "seed-unknown": (LONG, {"seed_column": "sed"}, "--seed-column: unknown column 'sed'; did you mean 'seed'"),
    "metric-taken": (LONG, {"metric": "seed"}, "--metric: column 'seed' names the arms or seeds"),
    "two-metrics": ("arm,seed,top1,top5\na,1,1,2\nb,1,2,3\n", {}, "Say --metric COLUMN, one of: top1, top5"),
    "no-metric": ("arm,seed\na,1\nb,1\n", {}, "one of: none is left"),
    "no-arms": (
        "seed,accuracy,loss\n1,90,1\n2,91,2\n",
        {},
        "no column names the arms. Columns: seed, accuracy, loss. With one row per",
    ),
    "no-seeds": ("recipe,accuracy\na,90\nb,91\n", {}, "no column names the seeds. Columns: recipe, accuracy"),
    "neither": ("x,y\n1,90\n2,91\n", {}, "no column names the arms or the seeds.*--seed-column; with one row per seed"),
    "wide-with-words": ("seed,base,note\n1,90,x\n2,91,y\n", {}, "'note' holds no number, so it is no arm"),
    "wide-by-arm-odd": ("recipe,first,second\na,90,91\nb,90,91\n", {}, "'first' is not called like one"),
    "two-metrics-of-normlab": (
        "arm,seed,metric,value\na,1,acc,1\na,1,loss,2\nb,1,acc,1\n",
        {},
        "column 'metric' names several, acc, loss; keep the rows of one",
    ),
}


@pytest.mark.parametrize(("text", "given", "words"), BAD.values(), ids=list(BAD))
def test_bad_files_are_refused_with_place_and_way_out(text, given, words, write):
    path = write(text)
    with pytest.raises(DataError, match=words) as caught:
        read_csv(path, **given)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("arms", "found"),
    [(("a", "BASE"), "BASE"), (("Control", "b"), "Control"), (("base", "control"), None), (("a", "b"), None)],
)
def test_the_baseline_is_found_by_its_name_or_asked_for(arms, found):
    if found:
        assert find_baseline(arms) == found
        return
    with pytest.raises(SpecError, match=r"which arm is the baseline\?.*Arms: "):
        find_baseline(arms)


@pytest.mark.parametrize(("name", "words"), [("none.csv", "no such file"), (".", "is a directory; name a CSV file")])
def test_a_path_that_is_no_file(name, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read_csv(tmp_path / name)
