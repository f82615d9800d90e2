import dataclasses

import cv2
import numpy as np
import pytest

from ns_jax.data import crops, decoding, randaugment, resizing, views

NO_NOISE = randaugment.RandAugment(0)
MAX = decoding.MAX_PIXELS


def preprocessing(size=16, interpolation="bicubic"):
    return crops.Preprocessing(size, "none", (0.3,) * 3, (0.4,) * 3, interpolation)


def view(**changes):
    settings = {"kind": "crop", "flip": False, "randaugment": NO_NOISE, **changes}
    return views.TrainView(**{"evaluation": preprocessing(), **settings})


def picture(height, width, seed=0):
    """Smooth, so that a JPEG of it and its reduced versions stay close."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(image):
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    return cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()


@pytest.mark.parametrize("kind", ["pad", "crop"])
@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
def test_a_view_is_a_function_of_the_image_and_the_rng(kind, interpolation):
    noisy = view(
        kind=kind,
        evaluation=preprocessing(16, interpolation),
        flip=True,
        randaugment=randaugment.RandAugment(2, 9.0, 4.0, 2.0),
        final_cutout=2,
    )
    image = picture(40, 50)
    first, again, other = (
        noisy(image, np.random.default_rng(seed), MAX)["image"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == (16, 16, 3) and not np.array_equal(first, other)


@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
@pytest.mark.parametrize("sampler", crops.SAMPLERS)
def test_a_crop_view_is_the_samplers_crop_resized(sampler, interpolation):
    image = picture(60, 70)
    plain = view(crop_sampler=sampler, evaluation=preprocessing(16, interpolation))
    for seed in range(5):
        draw = {"official": crops.official_crop, "area": crops.area_crop}[sampler]
        box = draw(60, 70, np.random.default_rng(seed))
        expected = resizing.resize(crops.cut(image, box), 16, interpolation)
        found = plain(image, np.random.default_rng(seed), MAX)["image"]
        np.testing.assert_array_equal(found, expected)


def test_a_crop_that_fails_is_evaluations():
    image = picture(300, 3)
    found = view()(image, np.random.default_rng(0), MAX)["image"]
    np.testing.assert_array_equal(found, preprocessing()(image))


@pytest.mark.parametrize("kind", ["crop", "pad", "evaluation"])
def test_pixels_are_truncated_before_randaugment_alone(kind, monkeypatch):
    """As the official code does; a crop that fails, and small images, are no exception."""
    # Operators that change nothing: what is seen is what RandAugment was given.
    names = dict.fromkeys(randaugment.OPERATORS, lambda image, *_: image)
    monkeypatch.setattr(randaugment, "OPERATORS", names)
    monkeypatch.setattr(crops, "pad_and_crop", lambda image, rng: image)
    for image in (picture(60, 70), picture(300, 3)):  # of the second no crop fits
        seen = {}
        for layers in (0, 2):
            evaluation = preprocessing(16, "bicubic_tf")
            noisy = view(
                kind=kind, evaluation=evaluation, randaugment=randaugment.RandAugment(layers)
            )
            seen[layers] = noisy(image, np.random.default_rng(0), MAX)["image"]
        below = seen[0].astype(int) - seen[2]  # 1 where rounding went up
        if kind == "evaluation":
            assert not below.any()
        else:
            assert set(np.unique(below)) == {0, 1} and 0.2 < below.mean() < 0.8


def test_half_of_the_images_are_mirrored():
    image = picture(16, 16)
    mirrored = view(kind="pad", flip=True)
    padded = [
        (
            mirrored(image, np.random.default_rng(s), MAX),
            view(kind="pad")(image, np.random.default_rng(s), MAX),
        )
        for s in range(200)
    ]
    same = sum(np.array_equal(a["image"], b["image"]) for a, b in padded)
    flipped = sum(np.array_equal(a["image"], b["image"][:, ::-1]) for a, b in padded)
    assert same + flipped == 200 and 70 < same < 130


def test_a_final_cutout_greys_a_box():
    white = np.full((16, 16, 3), 255, np.uint8)
    boxes = [
        view(kind="crop", final_cutout=3)(white, np.random.default_rng(s), MAX)["image"]
        for s in range(20)
    ]
    for image in boxes:
        grey = (image == 128).all(-1)
        rows, columns = np.where(grey)
        assert grey[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert 9 <= grey.sum() <= 36 and (image[~grey] == 255).all()


def ramps(size):
    """Red grows with the column, green with the row, by 255 / `size` a pixel."""
    values = np.linspace(0, 255, size, dtype=np.float32)
    rows, columns = np.meshgrid(values, values, indexing="ij")
    return np.rint(np.stack([columns, rows, 0 * rows], -1)).astype(np.uint8)


@pytest.fixture
def decodings(monkeypatch):
    """(reduction, bottom) of each decoding."""
    found = []
    original = decoding.Picture.pixels

    def pixels(self, reduction=1, bottom=None):
        found.append((reduction, bottom))
        return original(self, reduction, bottom)

    monkeypatch.setattr(decoding.Picture, "pixels", pixels)
    return found


def test_a_large_jpeg_is_decoded_reduced_if_its_crop_still_covers_the_view(decodings):
    image = ramps(400)
    data = jpeg(image)
    whole = {r: decoding.Picture(data).pixels(r) for r in (1, 2, 4, 8)}
    seen = set()
    for seed in range(100):
        box = crops.official_crop(400, 400, np.random.default_rng(seed))
        decodings.clear()
        reduced = view()(data, np.random.default_rng(seed), MAX)["image"]
        ((reduction, bottom),) = decodings
        assert min(box[2:]) // reduction >= 16 and bottom == box[0] + box[2]
        assert reduction == 8 or min(box[2:]) < 2 * reduction * 16
        seen.add(reduction)

        places = [round(start / reduction) for start in box[:2]]
        sides = [side // reduction for side in box[2:]]
        crop = crops.cut(whole[reduction], (*places, *sides))
        np.testing.assert_array_equal(reduced, resizing.resize(crop, 16, "bicubic"))
        # The crop begins up to half a reduced pixel beside its place and ends up to one and a half
        # beside; the cubic at its edge adds up to half of one. JPEG itself: up to 2 levels.
        full = view()(image, np.random.default_rng(seed), MAX)["image"]
        bound = 2 * reduction * 255 / 400 + 2
        assert np.abs(reduced.astype(int) - full).max() <= bound
    assert {4, 8} <= seen


def test_some_views_need_the_whole_jpeg(decodings):
    data = jpeg(ramps(400))
    rng = np.random.default_rng(0)
    view(evaluation=preprocessing(16, "bicubic_tf"))(data, rng, MAX)  # promises TensorFlow's pixels
    assert decodings.pop()[0] == 1
    view(evaluation=preprocessing(200))(data, np.random.default_rng(3), MAX)  # covers it no more
    assert decodings.pop()[0] == 1
    view(teacher=preprocessing(24))(data, rng, MAX)  # one decoding for both
    view(kind="pad")(data, rng, MAX)
    assert decodings == [(1, None), (1, None)]


def test_the_teachers_view_is_evaluations_and_decoded_once(monkeypatch):
    image = picture(90, 70)
    teacher = dataclasses.replace(preprocessing(24), crop="padded")
    calls = []
    original = decoding._decode
    monkeypatch.setattr(decoding, "_decode", lambda *a: calls.append(a) or original(*a))
    both = view(teacher=teacher, randaugment=randaugment.RandAugment(2, 9.0))
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    seen = both(data, np.random.default_rng(0), MAX)
    np.testing.assert_array_equal(seen["teacher_image"], teacher(image))
    assert len(calls) == 1
    assert {name: array.shape for name, array in seen.items()} == both.shapes()
