"""Transforms: what the papers say, and randomness that knows only seed, epoch and row."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from alray.config import TransformConfig
from alray.data.augment import draws, eval_transform, random_box, train_transform


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


IMAGENET = TransformConfig(size=24, resize=28)
CIFAR = TransformConfig(size=16, resize=0, train="crop_pad", pad=3)


@pytest.mark.parametrize("config", [IMAGENET, CIFAR, TransformConfig(size=20, resize=0)])
@pytest.mark.parametrize("size", [(16, 16), (40, 33), (31, 64), (1, 90)])
def test_shape_and_type(config: TransformConfig, size: tuple[int, int]) -> None:
    for transform in (eval_transform(config), train_transform(config, 0)):
        out = transform(picture(*size), 3, 1)
        assert out.shape == (config.size, config.size, 3)
        assert out.dtype == np.uint8


@pytest.mark.parametrize("config", [IMAGENET, CIFAR])
def test_randomness_is_a_function_of_seed_epoch_and_row(config: TransformConfig) -> None:
    image = picture(40, 33)
    transform = train_transform(config, 7)
    places = [(row, epoch) for row in range(6) for epoch in range(3)]
    first = {place: transform(image, *place) for place in places}
    again = pickle.loads(pickle.dumps(train_transform(config, 7)))
    for place in reversed(places):
        assert np.array_equal(again(image, *place), first[place])
    assert len({out.tobytes() for out in first.values()}) > 12
    other = train_transform(config, 8)
    assert any(not np.array_equal(other(image, *place), first[place]) for place in places)


def test_no_global_random_state_is_used() -> None:
    image = picture(30, 30)
    seen = []
    for state in (1, 2):
        torch.manual_seed(state), np.random.seed(state), random.seed(state)
        before = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
        seen.append([train_transform(config, 0)(image, 0, 0).tobytes() for config in (IMAGENET, CIFAR)])
        after = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
        assert before == after
    assert seen[0] == seen[1]


@pytest.mark.parametrize("size", [(60, 30), (33, 47), (28, 28), (29, 400), (500, 375), (12, 10)])
def test_evaluation_is_torchvisions(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = transforms.Compose([transforms.Resize(28), transforms.CenterCrop(24)])(image)
    assert np.array_equal(eval_transform(IMAGENET)(image, 0, 0), np.asarray(expected))
    odd = transforms.Compose([transforms.Resize(29), transforms.CenterCrop(24)])(image)
    assert np.array_equal(eval_transform(TransformConfig(size=24, resize=29))(image, 0, 0), np.asarray(odd))
    straight = transforms.Resize((24, 24))(image)
    assert np.array_equal(eval_transform(TransformConfig(size=24, resize=0))(image, 0, 0), np.asarray(straight))


def test_random_resized_crop_is_torchvisions_for_the_same_box() -> None:
    image = picture(50, 37)
    transform = train_transform(TransformConfig(size=24, flip=False), 4)
    for row in range(10):
        left, top, right, bottom = random_box(50, 37, draws(4, row, 2))
        expected = transforms.functional.resized_crop(image, top, left, bottom - top, right - left, [24, 24])
        assert np.array_equal(transform(image, row, 2), np.asarray(expected))


@pytest.mark.parametrize("size", [(50, 37), (200, 20), (3, 3)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    """Area, aspect and place of 4,000 boxes: the means agree within five standard errors, and the extremes closely."""
    width, height = size
    ours = np.array([random_box(width, height, draws(0, row, 0)) for row in range(4000)], float)
    ours[:, 2:] -= ours[:, :2]
    torch.manual_seed(0)
    image = picture(width, height)
    draw = transforms.RandomResizedCrop.get_params
    theirs = np.array([draw(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)], float)[:, [1, 0, 3, 2]]
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 5 * error + 1e-9).all()
    assert (np.abs(ours.min(0) - theirs.min(0)) <= 3).all()
    assert (np.abs(ours.max(0) - theirs.max(0)) <= 3).all()
    assert ((ours >= 0).all(1) & (ours[:, 0] + ours[:, 2] <= width) & (ours[:, 1] + ours[:, 3] <= height)).all()


@pytest.mark.parametrize("size", [(400, 10), (10, 400), (1, 90)])
def test_long_images_fall_back_to_the_center(size: tuple[int, int]) -> None:
    """Nothing of the wanted area fits: the largest allowed aspect, centered, as torchvision does."""
    box = random_box(*size, lambda: 1.0)  # all of the area
    top, left, height, width = transforms.RandomResizedCrop.get_params(picture(*size), [1, 1], [3 / 4, 4 / 3])
    assert box == (left, top, left + width, top + height)


@pytest.mark.parametrize("size", [(20, 400), (2000, 30), (3, 700), (1, 90)])
def test_strips_are_cropped_before_they_are_resized(size: tuple[int, int]) -> None:
    """Resizing the whole of a strip takes gigabytes. The pixels are the same up to two levels."""
    image = picture(*size)
    width, height = size
    sides = (28 * width // min(size), 28 * height // min(size))
    left, top = (round((side - 24) / 2) for side in sides)
    whole = np.asarray(image.resize(sides, Image.Resampling.BILINEAR))[top : top + 24, left : left + 24]
    found = eval_transform(IMAGENET)(image, 0, 0)
    assert found.shape == whole.shape
    assert np.abs(found.astype(int) - whole).max() <= 2


def test_a_strip_is_averaged_where_it_becomes_a_square() -> None:
    image = picture(9000, 6)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    found = eval_transform(CIFAR)(image, 0, 0)
    assert np.abs(found - expected).mean() < 2


def test_images_of_the_right_size_pass_unchanged() -> None:
    image = picture(16, 16)
    assert np.array_equal(eval_transform(CIFAR)(image, 0, 0), np.asarray(image))


def test_crop_pad_moves_within_a_black_border_and_flips() -> None:
    """Every result is one of the 7 x 7 windows of the padded image or its mirror image; both and many places occur."""
    image = picture(16, 16)
    padded = np.pad(np.asarray(image), ((3, 3), (3, 3), (0, 0)))
    windows = {(y, x): padded[y : y + 16, x : x + 16] for y in range(7) for x in range(7)}
    seen = set()
    for row in range(120):
        out = train_transform(CIFAR, 0)(image, row, 0)
        found = [
            (place, flipped)
            for place, window in windows.items()
            for flipped in (False, True)
            if np.array_equal(out, window[:, ::-1] if flipped else window)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {place for place, _ in seen} >= {(0, 3), (6, 3)} or len(seen) > 40
    assert {flipped for _, flipped in seen} == {False, True}


def test_no_flip_when_told_so() -> None:
    config = TransformConfig(size=16, resize=0, train="crop_pad", pad=0, flip=False)
    image = picture(16, 16)
    assert all(np.array_equal(train_transform(config, 0)(image, row, 0), np.asarray(image)) for row in range(20))


def test_training_without_augmentation_is_evaluation() -> None:
    config = TransformConfig(size=24, resize=28, train="eval")
    image = picture(60, 30)
    assert np.array_equal(train_transform(config, 3)(image, 1, 1), eval_transform(config)(image, 0, 0))


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"transform\.resize: expected 0 or at least transform\.size=24, got 20"):
        eval_transform(TransformConfig(size=24, resize=20))


def test_decoding_processes_need_no_pytorch() -> None:
    program = "import sys, alray.data.augment, alray.data.catalog, alray.data.images; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
