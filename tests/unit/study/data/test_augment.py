import numpy as np
import pytest
import torch

from normlab.errors import SpecError
from normlab.seeding import Streams
from normlab.study.data.augment import AUGMENTS, augmentation, canonical_augment, center, output_size

N, SIZE = 60, (9, 11)


def images(size=SIZE):
    return torch.randint(0, 256, (N, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def augmented(specs, *, seed=1, epoch=0, parts=(slice(None),), size=SIZE, device="cpu"):
    """All examples, in batches of these."""
    steps = augmentation(specs, Streams(seed), epoch, N, size, device)
    every, x = torch.arange(N, device=device), images(size).to(device)
    return torch.cat([steps.apply(x[every[part]], every[part]) for part in parts])


def windows(padding, height, width):
    """Every window of each image: window → place."""
    x = torch.nn.functional.pad(images(), (padding,) * 4)
    tops, lefts = x.shape[2] - height + 1, x.shape[3] - width + 1
    return [
        {bytes(x[n, :, t : t + height, s : s + width].numpy()): (t, s) for t in range(tops) for s in range(lefts)}
        for n in range(N)
    ]


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    found, x = augmented(["flip"]), images()
    mirrored = (found == x.flip(3)).flatten(1).all(1)
    assert torch.equal(found, torch.where(mirrored[:, None, None, None], x.flip(3), x))
    assert 18 < mirrored.sum() < 42  # 60 fair coins, p = 0.001 outside


@pytest.mark.parametrize(
    ("spec", "padding", "shape"),
    [("crop(padding=2)", 2, SIZE), ("crop(size=7)", 0, (7, 7)), ("crop(size=10, padding=1)", 1, (10, 10))],
)
def test_a_crop_is_a_window_of_the_padded_image_and_every_place_occurs(spec, padding, shape):
    places = set()
    for epoch in range(12):
        found = augmented([spec], epoch=epoch)
        assert found.dtype == torch.uint8
        assert found.shape == (N, 3, *shape)
        places |= {of[bytes(image.numpy())] for of, image in zip(windows(padding, *shape), found, strict=True)}
    rooms = [side + 2 * padding - window + 1 for side, window in zip(SIZE, shape, strict=True)]
    assert places == {(t, s) for t in range(rooms[0]) for s in range(rooms[1])}
    assert output_size([spec], SIZE) == shape


def test_a_resized_crop_of_a_ramp_is_the_ramp_between_its_edges():
    """Bilinear interpolation gives back linear images, so the window can be read off the result."""
    ramp = torch.stack([torch.arange(96.0)[:, None].expand(96, 64), 2 * torch.arange(64.0).expand(96, 64)])
    batch = ramp.to(torch.uint8).expand(400, 2, 96, 64)
    step = AUGMENTS.create("resized_crop(size=24, area=0.1)")
    top, left, height, width = (drawn := step.draw(Streams(1).numpy("augment"), 400, (96, 64))).unbind(1)
    assert torch.equal(drawn, drawn.round())
    assert ((top >= 0) & (left >= 0) & (top + height <= 96) & (left + width <= 64)).all()
    places = (torch.arange(24) + 0.5) / 24
    inner = slice(2, -2)  # at its edge a window sees the pixels beyond, where there are any
    rows = top[:, None] + places[inner] * height[:, None] - 0.5
    columns = left[:, None] + places[inner] * width[:, None] - 0.5
    found = step.apply(batch, drawn).float()
    assert found.shape == (400, 2, 24, 24)
    torch.testing.assert_close(found[:, 0, inner, 12], rows, rtol=0, atol=0.51)  # of rounding to uint8
    torch.testing.assert_close(found[:, 1, 12, inner], 2 * columns, rtol=0, atol=0.51)


def test_resized_crops_have_the_areas_and_shapes_that_are_asked_for():
    step = AUGMENTS.create("resized_crop(size=24, area=0.25, aspect=1.5)")
    height, width = step.draw(Streams(1).numpy("augment"), 20_000, (200, 200))[:, 2:].unbind(1)
    area, aspect = height * width / 200**2, width / height
    assert 0.24 < area.min() < 0.26
    assert area.max() > 0.98
    assert abs(aspect.log().mean()) < 0.01
    assert 1.47 < aspect.max() < 1.53
    assert (area[area < 0.66].mean() - 0.455).abs() < 0.005, "uniform where every shape fits"


def test_an_image_that_no_window_fits_is_cropped_in_the_middle():
    drawn = AUGMENTS.create("resized_crop(area=1.0, aspect=1.25)").draw(Streams(1).numpy("augment"), 5, (40, 100))
    assert drawn.tolist() == [[0, 25, 40, 50]] * 5


def test_evaluation_sees_the_middle_of_what_a_resized_crop_may_see():
    x = torch.randint(0, 256, (3, 1, 64, 80), dtype=torch.uint8)
    assert torch.equal(center(["resized_crop(size=56)"], x), x[:, :, 4:60, 12:68])
    assert torch.equal(center(["resized_crop"], x), x)


def test_an_example_gets_the_same_whatever_batch_it_is_in():
    specs = ["crop(padding=2)", "flip", "resized_crop(size=6)"]
    whole = augmented(specs)
    assert torch.equal(augmented(specs, parts=[slice(0, 7), slice(7, 8), slice(8, None)]), whole)
    backwards = augmented(specs, parts=[slice(30, None), slice(0, 30)])
    assert torch.equal(torch.cat([backwards[30:], backwards[:30]]), whole)


def test_another_epoch_or_seed_draws_anew_and_the_same_draws_the_same():
    specs = ["crop(padding=2)", "flip"]
    assert torch.equal(augmented(specs), augmented(specs))
    assert not torch.equal(augmented(specs), augmented(specs, epoch=1))
    assert not torch.equal(augmented(specs), augmented(specs, seed=2))


def test_numbers_come_from_the_augment_stream_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    np.random.seed(3)
    first = augmented(["crop(padding=2)", "flip"])
    assert torch.equal(torch.get_rng_state(), state)
    np.random.seed(4)
    assert torch.equal(augmented(["crop(padding=2)", "flip"]), first)


@pytest.mark.parametrize(
    ("specs", "top", "left", "shape"),
    [
        ([], 0, 0, SIZE),
        (["flip", "crop(padding=2)"], 0, 0, SIZE),
        (["crop(size=7)"], 1, 2, (7, 7)),
        (["crop(padding=4)", "crop(size=5)"], 2, 3, (5, 5)),
    ],
)
def test_evaluation_sees_the_middle_where_training_crops(specs, top, left, shape):
    found = center(specs, images())
    assert torch.equal(found, images()[:, :, top : top + shape[0], left : left + shape[1]])
    assert tuple(found.shape[2:]) == output_size(specs, SIZE)


def test_evaluation_pads_where_training_crops_larger_than_the_image():
    found = center(["crop(size=12, padding=2)"], images())
    assert found.shape == (N, 3, 12, 12)
    assert torch.equal(found[:, :, 2:11, 1:12], images())
    assert found.sum() == images().sum()


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["flop"], "unknown augmentation 'flop'; did you mean 'flip'"),
        (["crop(pad=4)"], "did you mean 'padding'"),
        (["crop(size=12)"], r"crop\(size=12, padding=0\) does not fit images of 9x11"),
        (["crop(size=7)", "crop(size=8)"], "does not fit images of 7x7"),
        (["crop"], r"crop of images of 9x11 does nothing: add padding, crop\(padding=4\), or a size"),
        (["crop(padding=-1)"], "padding from 0"),
        (["crop(size=0)"], "size from 1"),
        (["resized_crop(size=0)"], "size from 1, area above 0 up to 1, aspect from 1"),
        (["resized_crop(area=0.0)"], "area above 0 up to 1"),
        (["resized_crop(aspect=0.75)"], "aspect from 1"),
    ],
)
def test_steps_that_cannot_be_taken_are_named(specs, message):
    with pytest.raises(SpecError, match=message):
        output_size(specs, SIZE)


def test_defaults_are_written_out():
    assert canonical_augment(["flip", "crop(padding=4)"]) == ["flip", "crop(padding=4, size=None)"]


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_and_the_images_are_those_of_a_cpu():
    specs = ["crop(padding=2)", "flip", "crop(size=6)", "resized_crop"]
    steps = augmentation(specs, Streams(1), 0, N, SIZE, "cuda")
    x, every = images().cuda(), torch.arange(N, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = steps.apply(x, every)
        center(["resized_crop(size=6)"], x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (found.cpu().int() - augmented(specs).int()).abs().max() <= 1  # interpolation rounds
