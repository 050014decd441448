import json
import os
import subprocess
import sys
import time

import pytest

from normlab.errors import DataError
from normlab.study.data import load
from normlab.study.job import DataSpec
from tests.unit.study.data import made
from tests.unit.study.data.hub_server import COMMIT, serving

ASK = """
import json, sys
from normlab.errors import NormlabError
from normlab.study.data import load
from normlab.study.job import DataSpec
for spec in sys.argv[1:]:
    try:
        data = load(DataSpec(name=spec))
        print(json.dumps([data.shape, len(data.train), len(data.validation), len(data.test), dict(data.facts)]))
    except NormlabError as error:
        print(json.dumps(str(error)))
"""


def ask(address, tmp_path, *specs, **environment):
    """Load each spec in a process whose hub is at this address; `datasets` reads where that is when it is imported."""
    places = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "NORMLAB_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *specs],
        env={**os.environ, **places, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_any_dataset_of_the_hub_is_downloaded_once_and_its_commit_recorded(tmp_path):
    local = made.write_parquet(tmp_path / "files")
    files = {f"data/{path.name}": path.read_bytes() for path in local.iterdir()}
    with serving("me/shapes", files) as address:
        first, other, split, none, revision = ask(
            address,
            tmp_path,
            'hub(id="me/shapes")',
            'hub(id="me/shapes", resize=4)',
            'hub(id="me/shapes", test="exam")',
            'hub(id="me/shape")',
            'hub(id="me/shapes", revision="mian")',
        )
    assert first[:4] == [[3, *made.SIZE], 27, 3, 9]
    assert first[4]["data"] == "me/shapes"
    assert first[4]["data_revision"] == COMMIT
    copy = load(DataSpec(name=f"parquet(path={str(local)!r})"))
    assert first[4]["data_checksum"] == copy.facts["data_checksum"]
    assert other[0] == [3, 4, 4]
    assert 'Unknown split "exam"' in split
    assert "me/shape: the Hugging Face hub has no such dataset" in none
    assert "me/shapes: the Hugging Face hub has no revision 'mian' of it" in revision
    # the hub is gone; what is pinned and decoded needs it no more
    pinned, branch = ask(address, tmp_path, f'hub(id="me/shapes", revision="{COMMIT}")', 'hub(id="me/shapes")')
    assert pinned == first
    assert "cannot be reached" in branch
    assert 'parquet(path="...")' in branch
    elsewhere = str(tmp_path / "elsewhere")
    offline = [f'hub(id="me/shapes", revision="{COMMIT}")', 'hub(id="me/none")']
    kept, missing = ask(address, tmp_path, *offline, HF_HUB_OFFLINE="1", NORMLAB_CACHE_DIR=elsewhere)
    assert kept == first  # from the hub's own cache
    assert missing.startswith("me/none on the Hugging Face hub: ")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cub200", "stanford_cars", "fashion_mnist"])
def test_a_hub_that_cannot_be_reached_is_told_at_once_with_what_would_do(name, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load(DataSpec(name=name))
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in ("cannot be reached", f"DIR/{name}", "--data-dir DIR", 'folder(path="...")', '"digits"'):
        assert part in message


def test_a_hub_that_fails_in_between_is_told_in_one_line(tmp_path):
    files = {"data/train-00000-of-00001.parquet": b"not what parquet begins with", "data/test-0.parquet": b"neither"}
    with serving("me/shapes", files) as address:
        (said,) = ask(address, tmp_path, 'hub(id="me/shapes")')
    assert said.startswith("me/shapes on the Hugging Face hub: ")
    assert "\n" not in said
