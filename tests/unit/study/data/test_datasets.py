import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from normlab.errors import DataError, SpecError
from normlab.study.data import DATASETS, forget, load
from normlab.study.data.build import Published
from normlab.study.job import DataSpec
from tests.unit.study.data import made


def dataset(name, **options):
    return load(DataSpec(name=name, **options))


NEEDS_FILES = {"cifar10", "cifar100", "cub200", "fashion_mnist", "stanford_cars"}


@pytest.fixture
def spec(request, tmp_path):
    """How to name a dataset so that it can be loaded here."""
    name = request.param
    if name in NEEDS_FILES:
        folder = request.getfixturevalue("image_data")
        if not (folder / name).is_dir():
            pytest.skip(f"no local copy of {name} in {folder}")
    if name == "hub":
        pytest.skip("test_hub.py has one")
    if name == "folder":
        return f"folder(path={str(made.write_folder(tmp_path / 'files'))!r})"
    if name == "parquet":
        return f"parquet(path={str(made.write_parquet(tmp_path / 'files'))!r})"
    return name


@pytest.mark.parametrize("spec", list(DATASETS), indirect=True)
def test_every_dataset_is_split_class_by_class_and_repeatably(spec):
    data = dataset(spec)
    for part in (data.train, data.validation, data.test):
        assert part.pool.dtype == np.uint8
        assert part.pool.shape[1:] == data.shape
        assert part.labels.dtype == np.int64
        assert len(part.rows) == len(part.labels) == len(part)
        assert set(part.labels) == set(range(data.num_classes))
    assert not set(data.train.rows) & set(data.validation.rows)
    assert data.facts["data"]
    assert len(data.facts["data_checksum"]) == len("sha256:") + 64
    forget()
    again, other = dataset(spec), dataset(spec, split_seed=1)
    np.testing.assert_array_equal(again.train.rows, data.train.rows)
    np.testing.assert_array_equal(again.train.images[:9], data.train.images[:9])
    assert again.facts == data.facts
    assert not np.array_equal(other.train.rows, data.train.rows)


def test_cifar10_is_split_as_in_the_paper_and_checked(image_data):
    data = dataset("cifar10")
    assert data.shape == (3, 32, 32)
    assert [set(np.bincount(part.labels)) for part in (data.train, data.validation, data.test)] == [
        {4500},
        {500},
        {1000},
    ]
    first = data.train.pool[0]  # a frog, as the README of the copy says
    assert first[:, 0, 0].tolist() == [59, 62, 63]
    assert data.facts["data_checksum"] == ("sha256:fe996366d93025ee8ab420837faae9b00ffefd2b05314f39d8e95d2653bf8a40")
    mean = data.train.pool.mean((0, 2, 3), dtype=np.float64) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)


def test_fashion_mnist_is_the_same_from_any_kind_of_local_copy(image_data, tmp_path, monkeypatch):
    import lzma

    plain = tmp_path / "copy" / "fashion_mnist"
    plain.mkdir(parents=True)
    for path in (image_data / "fashion_mnist").glob("*.xz"):
        (plain / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    there = dataset("fashion_mnist")
    monkeypatch.setenv("NORMLAB_DATA_DIR", str(tmp_path / "copy"))
    assert dataset("fashion_mnist").facts == there.facts
    (plain / "t10k-labels-idx1-ubyte").unlink()
    forget()
    with pytest.raises(DataError, match=r"fashion_mnist: no t10k-labels-idx1-ubyte, .*\.gz or .*\.xz in it"):
        dataset("fashion_mnist")
    (plain / "t10k-labels-idx1-ubyte").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"holds 100 bytes, where 10,008 should be"):
        dataset("fashion_mnist")


def test_digits_is_the_whole_of_scikit_learns_disjointly():
    from sklearn.datasets import load_digits

    data = dataset("digits(train=300, validation=300)")
    parts = data.train, data.validation, data.test
    assert [len(part) for part in parts] == [300, 300, 1197]
    assert [set(np.bincount(part.labels)) for part in parts[:2]] == [{30}, {30}]
    together = np.concatenate([part.images.reshape(-1, 64) for part in parts])
    raw = load_digits().data.astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, raw))


def test_images_of_parquet_and_folder_are_those_of_the_files(tmp_path):
    pictures = made.pictures(30).transpose(0, 3, 1, 2)
    parquet = dataset(f"parquet(path={str(made.write_parquet(tmp_path / 'p'))!r}, validation=0.0)")
    np.testing.assert_array_equal(parquet.train.images, pictures)
    assert not len(parquet.validation)
    folder = dataset(f"folder(path={str(made.write_folder(tmp_path / 'f'))!r}, validation=0.0)")
    by_class = np.concatenate([pictures[k::3] for k in range(3)])
    np.testing.assert_array_equal(folder.train.images, by_class)
    assert folder.train.labels.tolist() == sorted(folder.train.labels)


def test_relative_paths_start_at_the_data_directory(tmp_path, monkeypatch):
    made.write_folder(tmp_path / "mine")
    monkeypatch.setenv("NORMLAB_DATA_DIR", str(tmp_path))
    assert len(dataset('folder(path="mine")').test) == 9


@pytest.mark.parametrize(("fit", "width"), [("crop", 6), ("stretch", 4)])
def test_resized_images_are_the_middle_of_what_torchvision_resizes_or_all_of_it(fit, width, tmp_path):
    path = made.write_folder(tmp_path / "f", size=(8, 12))
    data = dataset(f"folder(path={str(path)!r}, resize=4, fit={fit!r}, validation=0.0)")
    first = Image.fromarray(made.pictures(30, size=(8, 12))[0])
    whole = np.asarray(first.resize((width, 4), Image.Resampling.BILINEAR))  # torchvision's Resize(4) of a PIL image
    middle = whole[:, (width - 4) // 2 :][:, :4]
    np.testing.assert_array_equal(data.train.images[0], middle.transpose(2, 0, 1))


def test_grey_images_have_one_channel(tmp_path):
    grey = [made.png(picture[..., 0]) for picture in made.pictures(30)]
    instead = {"train": (grey, [k % 3 for k in range(30)]), "test": (grey[:3], [0, 1, 2])}
    path = made.write_parquet(tmp_path, instead=instead)
    data = dataset(f"parquet(path={str(path)!r})")
    assert data.shape == (1, *made.SIZE)
    np.testing.assert_array_equal(data.train.pool[:, 0], made.pictures(30)[..., 0])


def test_grey_images_among_coloured_ones_get_three_channels(tmp_path):
    mixed = [made.png(picture if k else picture[..., 0]) for k, picture in enumerate(made.pictures(30))]
    path = made.write_parquet(tmp_path, instead={"train": (mixed, [k % 3 for k in range(30)])})
    with pytest.raises(
        DataError, match=r"image 1 is in colour, and grey is wanted, .*as the first one is; channels=3 keeps them"
    ):
        dataset(f"parquet(path={str(path)!r})")
    pool = dataset(f"parquet(path={str(path)!r}, channels=3)").train.pool
    assert (pool[0] == pool[0, :1]).all()
    np.testing.assert_array_equal(pool[1], made.pictures(30)[1].transpose(2, 0, 1))


def spoilt(case):
    encoded, labels = [made.png(p) for p in made.pictures(30)], [k % 3 for k in range(30)]
    if case == "class missing from training":
        labels = [0, 2] * 15
    elif case == "class missing from the test":
        return {"test": (encoded[:9], [0, 1] * 4 + [0])}
    elif case == "other sizes":
        encoded[7] = made.png(made.pictures(1, size=(5, 5))[0])
    elif case == "damaged image":
        encoded[7] = encoded[7][:60]
    elif case == "no image":
        encoded[7] = b"nothing"
    elif case == "16 bits":
        file = io.BytesIO()
        Image.fromarray(made.pictures(1)[0][..., 0].astype(np.uint16) * 256).save(file, "png")
        encoded[7] = file.getvalue()
    elif case == "labels in words":
        labels = ["ant", "bee", "cat"] * 10
    elif case == "negative label":
        labels[4] = -1
    elif case == "new label in the test":
        return {"test": (encoded[:9], [0, 1, 2, 3] * 2 + [0])}
    elif case == "empty":
        return {"test": ([], [])}
    return {"train": (encoded, labels)}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("class missing from training", "parquet: class 1 is missing from train"),
        ("class missing from the test", "parquet: class 2 is missing from test"),
        ("other sizes", r"image 7 has 5x5 pixels and the first one 6x8; resize=256, say, makes them alike"),
        ("damaged image", r"train-\*.parquet, image 7 cannot be decoded"),
        ("no image", r"train-\*.parquet, image 7 cannot be decoded: no image that Pillow knows"),
        ("16 bits", r"image 7 has more than 8 bits a pixel \(mode I;16\), which would be lost"),
        ("labels in words", "label 'ant' is no whole number"),
        ("negative label", "label -1 in train, where classes are 0..2"),
        ("new label in the test", "label 3 in test, where classes are 0..2"),
        ("empty", r"test-00000-of-00001.parquet cannot be read"),
    ],
)
def test_unusable_tables_are_named_and_nothing_is_kept(case, message, tmp_path, capsys):
    path = made.write_parquet(tmp_path / "files", instead=spoilt(case))
    with pytest.raises(DataError, match=message) as caught:
        dataset(f"parquet(path={str(path)!r})")
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "cannot be decoded: no image that Pillow knows, or a damaged one"),
        (made.png(made.pictures(1, size=(5, 5))[0]), "has 5x5 pixels and the first one 6x8"),
    ],
)
def test_an_unusable_image_of_a_folder_is_named_by_its_file(content, message, tmp_path):
    path = made.write_folder(tmp_path / "files")
    (path / "train" / "bee" / "004.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"files/train/bee/004.png {message}"):
        dataset(f"folder(path={str(path)!r})")


def test_one_channel_of_images_in_colour_names_the_option(tmp_path):
    path = made.write_folder(tmp_path / "files")
    with pytest.raises(DataError, match=r"ant/000.png is in colour, and grey is wanted, by channels=1 or"):
        dataset(f"folder(path={str(path)!r}, channels=1)")


def test_digits_without_validation_examples():
    data = dataset("digits(validation=0)")
    assert [len(data.train), len(data.validation), len(data.test)] == [300, 0, 1497]


@pytest.mark.parametrize("damage", ["cut off", "garbage", "empty", "flipped"])
def test_a_corrupt_parquet_file_is_named(damage, tmp_path):
    path = made.write_parquet(tmp_path / "files")
    file = path / "train-00001-of-00002.parquet"
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[300:340] = bytes(40)
    file.write_bytes({"cut off": content[:900], "garbage": b"no parquet", "empty": b"", "flipped": content}[damage])
    which = r"train-\*\.parquet.*(read|decoded)" if damage == "flipped" else "00001-of-00002.parquet is no parquet file"
    with pytest.raises(DataError, match=which):
        dataset(f"parquet(path={str(path)!r})")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("parquet(path='nowhere')", r"parquet\(path=\"nowhere\"\): .*nowhere is no folder"),
        ("parquet(path='files', test='validation')", r"files: no validation-\*\.parquet in it"),
        ("parquet(path='files', image='img')", r"unknown column 'img'; did you mean 'image'\?"),
        ("parquet(path='files', validation=1.0)", "validation=1.0 should be from 0 to below 1"),
        ("parquet(path='files', validation=0.99)", "validation=0.99 leaves no training example of class 0"),
        ("parquet(path='files', resize=0)", "resize=0 should be 1 pixel or more"),
        ("parquet(path='files', fit='squeeze')", "should be 'crop' or 'stretch'"),
        ("folder(path='files')", r"files/train is no folder; folder\(path=...\) wants train/CLASS/FILE"),
        ("digits(train=55)", r"train=55 should be a multiple of 10, the number of classes"),
        ("digits(train=0)", "leaves nothing to train on; it should be a multiple of 10"),
        ("digits(validation=-10)", "should be a multiple of 10"),
        ("digits(train=1700, validation=50)", "leaves no test example of the smallest class, which has 174"),
        ("digits(train='many')", "should be a valid integer"),
        ("digits(trian=10)", "did you mean 'train'"),
        ("cifar11", "unknown dataset 'cifar11'; did you mean 'cifar10'"),
        ("cub200(resize=-1)", "resize=-1 should be 1 pixel or more"),
    ],
)
def test_a_dataset_that_cannot_be_made_is_named(spec, message, tmp_path, monkeypatch):
    made.write_parquet(tmp_path / "files")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SpecError, DataError), match=message):
        dataset(spec)


def test_a_class_missing_from_a_folder_is_named(tmp_path):
    path = made.write_folder(tmp_path / "f")
    (path / "test" / "bee").rename(path / "test" / "wasp")
    with pytest.raises(DataError, match=r"test: class 'bee' is missing"):
        dataset(f"folder(path={str(path)!r})")


def test_counts_that_do_not_match_are_told_before_anything_is_decoded(tmp_path, monkeypatch):
    made.write_parquet(tmp_path / "cub200", train=400, test=200, classes=200)
    monkeypatch.setenv("NORMLAB_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="cub200: 400 images in train, where 5,994 should be"):
        dataset("cub200")


def test_a_changed_pixel_of_a_published_dataset_is_found(image_data, tmp_path, monkeypatch):
    import lzma

    place = tmp_path / "copy" / "fashion_mnist"
    place.mkdir(parents=True)
    for path in (image_data / "fashion_mnist").glob("*.xz"):
        content = bytearray(lzma.decompress(path.read_bytes()))
        if path.name.startswith("t10k-images"):
            content[5000] ^= 1
        (place / path.stem).write_bytes(content)
    monkeypatch.setenv("NORMLAB_DATA_DIR", str(tmp_path / "copy"))
    with pytest.raises(DataError, match=r"images 0 to 9,999 of test differ from those published"):
        dataset("fashion_mnist")


def test_files_in_another_order_are_put_into_the_published_one():
    def digest(images, labels):
        return hashlib.sha1(images.tobytes() + labels.tobytes()).hexdigest()

    images, labels = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2), np.arange(6)[:, None]
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    published = Published({"train": tuple(digest(images[p], labels[p]) for p in parts)}, digest)
    order = [4, 5, 0, 1, 2, 3]
    shuffled, classes = images[order], labels[order]
    published.arrange("train", shuffled, classes, "small")
    np.testing.assert_array_equal(shuffled, images)
    np.testing.assert_array_equal(classes, labels)
    twice, classes = images[[0, 1, 0, 1, 4, 5]], labels[[0, 1, 0, 1, 4, 5]]
    with pytest.raises(DataError, match="images 2 to 3 of train differ"):
        published.arrange("train", twice, classes, "small")


def test_the_data_directory_should_exist(monkeypatch):
    monkeypatch.setenv("NORMLAB_DATA_DIR", "/no/such/folder")
    with pytest.raises(DataError, match="/no/such/folder, named by --data-dir or NORMLAB_DATA_DIR, is no folder"):
        dataset("cifar10")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    from normlab.errors import Unavailable

    path = made.write_parquet(tmp_path / "files")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(Unavailable, match=r"pip install 'normlab\[data\]'"):
        dataset(f"parquet(path={str(path)!r})")


def test_webp_and_jpeg_are_decoded_too(tmp_path):
    path = made.write_folder(tmp_path / "f")
    for ending in ("webp", "jpg"):
        file = io.BytesIO()
        Image.fromarray(made.pictures(1, 9)[0]).save(file, {"jpg": "jpeg"}.get(ending, ending), lossless=True)
        (path / "train" / "ant" / f"a.{ending}").write_bytes(file.getvalue())
    data = dataset(f"folder(path={str(path)!r}, validation=0.0)")
    assert len(data.train) == 32
    assert any(np.array_equal(image, made.pictures(1, 9)[0].transpose(2, 0, 1)) for image in data.train.images)
