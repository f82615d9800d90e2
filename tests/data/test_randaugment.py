"""Every operator against a slow reference that follows the formulas of the official code."""

import math
import zlib

import numpy as np
import pytest

from ns_jax.data import randaugment
from ns_jax.data.randaugment import RandAugment

GREY = 128
MAGNITUDES = (5, 15, 27)
F32 = np.float32


def make_images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)

    def gradient(height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width]
        return np.stack([x * 5, y * 7, 30 + 2 * (x + y)], axis=-1).astype(np.uint8)

    return {
        "noise_31x37": rng.integers(0, 256, (31, 37, 3), dtype=np.uint8),
        "noise_32x32": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "narrow_noise_33x20": rng.integers(90, 150, (33, 20, 3), dtype=np.uint8),
        "gradient_31x37": gradient(31, 37),
        "constant_32x32": np.full((32, 32, 3), (200, 131, 7), np.uint8),
        "black_9x14": np.zeros((9, 14, 3), np.uint8),
        "white_14x9": np.full((14, 9, 3), 255, np.uint8),
        "two_levels_17x23": (rng.random((17, 23, 3)) < 0.1).astype(np.uint8) * 90 + 60,
    }


IMAGES = make_images()
BIG = np.random.default_rng(8).integers(9, 240, (224, 224, 3), dtype=np.uint8)


# --- The reference: one value or one pixel at a time --------------------------------------------


def truncate(value: float) -> int:
    return int(min(max(float(value), 0.0), 255.0))


def per_value(image: np.ndarray, function) -> np.ndarray:
    flat = [function(int(value)) for value in image.ravel()]
    return np.array(flat, np.uint8).reshape(image.shape)


def blend(first: int, second: int, factor: float) -> int:
    return truncate(F32(first) + F32(factor) * (F32(second) - F32(first)))


def blend_images(first: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
    flat = [blend(a, b, factor) for a, b in zip(first.ravel(), second.ravel(), strict=True)]
    return np.array(flat, np.uint8).reshape(first.shape)


def reference_auto_contrast(image):
    output = image.copy()
    for channel in range(3):
        low, high = F32(image[..., channel].min()), F32(image[..., channel].max())
        if high > low:
            scale = F32(255) / (high - low)
            stretched = [
                truncate(F32(v) * scale + -low * scale) for v in image[..., channel].ravel()
            ]
            output[..., channel] = np.reshape(stretched, image.shape[:2])
    return output


def reference_equalize(image):
    output = image.copy()
    for channel in range(3):
        values = image[..., channel].ravel().tolist()
        counts = [values.count(v) for v in range(256)]
        last = [count for count in counts if count][-1]
        step = (sum(counts) - last) // 255
        if step:
            table = [
                min(max((sum(counts[:v]) + step // 2) // step, 0), 255) if v else 0
                for v in range(256)
            ]
            output[..., channel] = np.reshape([table[v] for v in values], image.shape[:2])
    return output


def reference_color(image, factor):
    grey = np.empty_like(image)
    for position in np.ndindex(image.shape[:2]):
        red, green, blue = (F32(v) * F32(1 / 255) for v in image[position])
        luma = red * F32(0.2989) + green * F32(0.5870) + blue * F32(0.1140)
        grey[position] = int(luma * F32(255.5))
    return blend_images(grey, image, factor)


def reference_contrast(image, factor):
    height, width = image.shape[:2]
    level = int(min(height * width / 256, 255))
    return per_value(image, lambda v: blend(level, v, factor))


def reference_sharpness(image, factor):
    smooth = image.copy()
    height, width = image.shape[:2]
    taps = [[1, 1, 1], [1, 5, 1], [1, 1, 1]]
    for y, x, channel in np.ndindex(height - 2, width - 2, 3):
        total = F32(0)
        for row, column in np.ndindex(3, 3):
            weight = F32(taps[row][column]) / F32(13)
            total = total + weight * F32(image[y + row, x + column, channel])
        smooth[y + 1, x + 1, channel] = truncate(total)
    return blend_images(smooth, image, factor)


def reference_warp(image, source_of):
    """`source_of(x, y)` gives the float32 input position an output pixel shows."""
    height, width = image.shape[:2]
    output = np.full_like(image, GREY)
    for y, x in np.ndindex(height, width):
        source_x, source_y = (
            int(math.copysign(math.floor(abs(float(p)) + 0.5), p))
            for p in source_of(F32(x), F32(y))
        )
        if 0 <= source_x < width and 0 <= source_y < height:
            output[y, x] = image[source_y, source_x]
    return output


def reference_rotate(image, degrees):
    angle = float(F32(degrees) * F32(math.pi / 180))
    cos, sin = F32(math.cos(angle)), F32(math.sin(angle))
    right, bottom = F32(image.shape[1] - 1), F32(image.shape[0] - 1)
    x_offset = (right - (cos * right - sin * bottom)) / F32(2)
    y_offset = (bottom - (sin * right + cos * bottom)) / F32(2)
    return reference_warp(
        image, lambda x, y: (cos * x - sin * y + x_offset, sin * x + cos * y + y_offset)
    )


def reference_cutout(image, half_size, centre):
    output = image.copy()
    for y, x in np.ndindex(image.shape[:2]):
        if -half_size <= y - centre[0] < half_size and -half_size <= x - centre[1] < half_size:
            output[y, x] = GREY
    return output


REFERENCES = {
    "AutoContrast": reference_auto_contrast,
    "Equalize": reference_equalize,
    "Invert": lambda image: per_value(image, lambda v: 255 - v),
    "Rotate": reference_rotate,
    "Posterize": lambda image, bits: per_value(
        image, lambda v: v // 2 ** (8 - bits) * 2 ** (8 - bits)
    ),
    "Solarize": lambda image, threshold: per_value(
        image, lambda v: v if v < threshold else 255 - v
    ),
    "Color": reference_color,
    "Contrast": reference_contrast,
    "Brightness": lambda image, factor: per_value(image, lambda v: blend(0, v, factor)),
    "Sharpness": reference_sharpness,
    "ShearX": lambda image, s: reference_warp(image, lambda x, y: (x + F32(s) * y, y)),
    "ShearY": lambda image, s: reference_warp(image, lambda x, y: (x, F32(s) * x + y)),
    "TranslateX": lambda image, p: reference_warp(image, lambda x, y: (x + F32(p), y)),
    "TranslateY": lambda image, p: reference_warp(image, lambda x, y: (x, y + F32(p))),
    "SolarizeAdd": lambda image, add: per_value(
        image, lambda v: min(v + add, 255) if v < 128 else v
    ),
    "Cutout": reference_cutout,
}


def argument_choices(name: str, magnitude: float, image: np.ndarray) -> list[tuple]:
    """All signs, a few centres; translations short enough to leave some of a small image."""
    policy = RandAugment(magnitude=magnitude, translate_pixels=5.3, cutout_pixels=4)
    argument = policy.arguments()[name]
    if name == "Cutout":
        height, width = image.shape[:2]
        centres = [(0, 0), (height // 2, width // 3), (height - 1, width - 1)]
        return [(*argument, centre) for centre in centres]
    signed = name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
    return [argument, (-argument[0],)] if signed else [argument]


# --- Operators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCES)
def test_operator_equals_reference_on_every_pixel(name):
    changed = 0
    for label, image in IMAGES.items():
        for magnitude in MAGNITUDES:
            for arguments in argument_choices(name, magnitude, image):
                before = image.copy()
                output = randaugment.OPERATORS[name](image, *arguments)
                expected = REFERENCES[name](image, *arguments)
                where = f"{name}{arguments} on {label}"
                np.testing.assert_array_equal(output, expected, err_msg=where)
                assert output.dtype == np.uint8, where
                assert not np.shares_memory(output, image), where
                np.testing.assert_array_equal(image, before, err_msg=f"{where} altered its input")
                changed += not np.array_equal(output, image)
    assert changed >= 4  # the images do exercise the operator


@pytest.mark.parametrize(
    "name", ["AutoContrast", "Invert", "Rotate", "Solarize", "Contrast", "SolarizeAdd", "ShearX"]
)
def test_operator_equals_reference_at_224(name):
    arguments = RandAugment(magnitude=15).arguments()[name]
    output = randaugment.OPERATORS[name](BIG, *arguments)
    assert not np.array_equal(output, BIG)
    np.testing.assert_array_equal(output, REFERENCES[name](BIG, *arguments))


# CRC-32 of what the official graph gives for "narrow_noise_33x20" under TensorFlow 2.15 on CPU with
# NumPy 1.26, at magnitudes 15 and 27, positive sign, translate_pixels 5.3.
TENSORFLOW = {
    "AutoContrast": (0x736DF629, 0x736DF629),
    "Equalize": (0xAF4CE50A, 0xAF4CE50A),
    "Rotate": (0xAE7B64D5, 0xDE015EE2),
    "Posterize": (0xED398E8F, 0xB266E89E),
    "Solarize": (0xA4843442, 0x035CF674),
    "Color": (0x3E868A97, 0xE79D3289),
    "Contrast": (0xE983357D, 0xCC4C1D8F),
    "Brightness": (0x1AC9BEE7, 0xCC4C1D8F),
    "Sharpness": (0xCED1772C, 0x43C94F67),
    "ShearX": (0xAE55236F, 0x3FE9C700),
    "ShearY": (0xEA2389DA, 0x252930DD),
    "TranslateX": (0x922DC5D4, 0x5364C52B),
    "TranslateY": (0xFBE153D3, 0xA20715AC),
    "SolarizeAdd": (0x46051918, 0x46051918),
}


@pytest.mark.parametrize("name", TENSORFLOW)
def test_operator_equals_tensorflow(name):
    for magnitude, checksum in zip((15, 27), TENSORFLOW[name], strict=True):
        arguments = RandAugment(magnitude=magnitude, translate_pixels=5.3).arguments()[name]
        output = randaugment.OPERATORS[name](IMAGES["narrow_noise_33x20"], *arguments)
        assert zlib.crc32(output.tobytes()) == checksum, magnitude


def test_half_positions_round_away_from_zero():
    # Row 10 of a 0.15 shear reads x + 1.5. Rounded to even, x = 1 would read 2 instead of 3; to
    # the left, x = 1 reads -0.5, which is outside when rounded away from zero.
    image = np.arange(32, dtype=np.uint8)[None, :, None] * np.ones((11, 1, 3), np.uint8)
    assert randaugment.shear_x(image, 0.15)[10, :4, 0].tolist() == [2, 3, 4, 5]
    assert randaugment.shear_x(image, -0.15)[10, :4, 0].tolist() == [GREY, GREY, 1, 2]


def test_directions():
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 6] = 255  # right of the centre
    peak = {
        name: tuple(
            int(i[0]) for i in np.where(randaugment.OPERATORS[name](image, by)[..., 0] == 255)
        )
        for name, by in [("Rotate", 90), ("TranslateX", 2), ("TranslateY", 2), ("ShearX", 0.5)]
    }
    assert peak == {
        "Rotate": (2, 4), "TranslateX": (4, 4), "TranslateY": (2, 6), "ShearX": (4, 4)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("side", "level"), [(32, 4), (224, 196), (240, 225), (256, 255), (300, 255)]
)
def test_contrast_level_depends_on_size_only(side, level):
    for value in (0, 255):
        flat = np.full((side, side, 3), value, np.uint8)
        assert set(randaugment.contrast(flat, 0.0).ravel()) == {level}


def test_equalize_leaves_an_image_with_too_few_values_and_flattens_others():
    few = IMAGES["constant_32x32"]
    np.testing.assert_array_equal(randaugment.equalize(few), few)
    dark = np.arange(64, dtype=np.uint8).repeat(48).reshape(64, 48, 1) * np.ones(3, np.uint8)
    assert randaugment.equalize(dark).max() > 200


def test_degenerate_sizes():
    policy = RandAugment(magnitude=15)
    for shape in [(1, 1, 3), (1, 6, 3), (2, 2, 3), (6, 1, 3)]:
        image = np.full(shape, 77, np.uint8)
        for name, operator in randaugment.OPERATORS.items():
            centre = ((0, 0),) if name == "Cutout" else ()
            output = operator(image, *policy.arguments()[name], *centre)
            assert (output.shape, output.dtype) == (shape, np.uint8), name
        np.testing.assert_array_equal(randaugment.sharpness(image, 2.8), image)


# --- Arguments ------------------------------------------------------------------------------------

# Magnitude: degrees, slope, pixels, official bits, saturated bits, official threshold, saturated
# threshold, addition, factor, half size. The bits count what survives: 10 bits are a shift of 254,
# which TensorFlow stops at 7, hence 1.
ARGUMENTS = {
    5: (15, 0.15, 50, 2, 2, 128, 128, 55, 1.0, 20),
    6: (18, 0.18, 60, 2, 2, 153, 153, 66, 1.18, 24),
    10: (30, 0.3, 100, 4, 4, 0, 256, 110, 1.9, 40),
    12: (36, 0.36, 120, 4, 4, 51, 256, 132, 2.26, 48),
    15: (45, 0.45, 150, 6, 6, 128, 256, 165, 2.8, 60),
    18: (54, 0.54, 180, 7, 7, 204, 256, 198, 3.34, 72),
    20: (60, 0.6, 200, 8, 8, 0, 256, 220, 3.7, 80),
    24: (72, 0.72, 240, 1, 8, 102, 256, 264, 4.42, 96),
    27: (81, 0.81, 270, 1, 8, 179, 256, 297, 4.96, 108),
}


@pytest.mark.parametrize("magnitude", ARGUMENTS)
@pytest.mark.parametrize("overflow", ["official", "saturate"])
def test_arguments(magnitude, overflow):
    degrees, slope, pixels, *integers, addition, factor, half_size = ARGUMENTS[magnitude]
    bits, threshold = integers[0::2] if overflow == "official" else integers[1::2]
    arguments = RandAugment(magnitude=magnitude, overflow=overflow).arguments()
    expected = {
        "AutoContrast": (), "Equalize": (), "Invert": (), "Rotate": (degrees,),
        "Posterize": (bits,), "Solarize": (threshold,),
        "Color": (factor,), "Contrast": (factor,), "Brightness": (factor,), "Sharpness": (factor,),
        "ShearX": (slope,), "ShearY": (slope,), "TranslateX": (pixels,), "TranslateY": (pixels,),
        "SolarizeAdd": (addition,), "Cutout": (half_size,),
    }  # fmt: skip
    assert arguments.keys() == expected.keys() == randaugment.OPERATORS.keys()
    for name, values in expected.items():
        assert arguments[name] == pytest.approx(values, rel=1e-12), name
    for name in ("Posterize", "Solarize", "SolarizeAdd", "Cutout"):
        assert all(isinstance(value, int) for value in arguments[name]), name


def test_small_image_arguments():
    arguments = RandAugment(magnitude=5, translate_pixels=4, cutout_pixels=4).arguments()
    assert arguments["TranslateX"] == arguments["TranslateY"] == arguments["Cutout"] == (2,)


def test_overflow_decides_what_the_image_becomes():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1) * np.ones(3, np.uint8)

    def apply(name, magnitude, overflow):
        policy = RandAugment(magnitude=magnitude, overflow=overflow)
        return randaugment.OPERATORS[name](ramp, *policy.arguments()[name])

    np.testing.assert_array_equal(apply("Solarize", 10, "official"), 255 - ramp)
    np.testing.assert_array_equal(apply("Solarize", 10, "saturate"), ramp)
    np.testing.assert_array_equal(apply("Posterize", 27, "official"), ramp // 128 * 128)
    np.testing.assert_array_equal(apply("Posterize", 27, "saturate"), ramp)
    np.testing.assert_array_equal(apply("Posterize", 20, "official"), ramp)
    np.testing.assert_array_equal(apply("Posterize", 0, "official"), ramp // 128 * 128)


@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_enhancements_are_identities_at_magnitude_5_only(name):
    image = IMAGES["noise_31x37"]
    for magnitude, identity in [(4, False), (5, True), (6, False)]:
        factor = RandAugment(magnitude=magnitude).arguments()[name]
        output = randaugment.OPERATORS[name](image, *factor)
        assert np.array_equal(output, image) == identity, magnitude


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_layers", -1), ("magnitude", -0.5), ("magnitude", math.nan), ("overflow", "wrap")],
)
def test_validation_names_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"{field} is .*{value}.*set it to"):
        RandAugment(**{field: value})


@pytest.mark.parametrize(
    "shape, dtype", [((8, 8, 3), F32), ((8, 8), np.uint8), ((8, 8, 4), np.uint8)]
)
def test_image_must_be_uint8_rgb(shape, dtype):
    with pytest.raises(ValueError, match="image is .*uint8 RGB"):
        RandAugment()(np.zeros(shape, dtype), np.random.default_rng(0))


# --- The random choices ---------------------------------------------------------------------------


def record_calls(monkeypatch, num_images: int, policy: RandAugment) -> list[tuple]:
    """Runs `policy` with operators that only write down their name and arguments."""
    calls = []
    for name in randaugment.OPERATORS:

        def operator(image, *arguments, name=name):
            calls.append((name, *arguments))
            return image

        monkeypatch.setitem(randaugment.OPERATORS, name, operator)
    rng = np.random.default_rng(0)
    for _ in range(num_images):
        policy(IMAGES["narrow_noise_33x20"], rng)
    return calls


def test_operators_are_drawn_uniformly(monkeypatch):
    calls = record_calls(monkeypatch, 4000, RandAugment(num_layers=2))
    counts = {name: sum(call[0] == name for call in calls) for name in REFERENCES}
    assert len(calls) == 8000
    assert list(randaugment.OPERATORS) == list(REFERENCES)
    assert all(400 < count < 600 for count in counts.values()), counts  # 500 +- 4.6 sigma
    pairs = {(first[0], second[0]) for first, second in zip(calls[::2], calls[1::2], strict=True)}
    assert len(pairs) == 256  # the layers are independent, and an operator can repeat


def test_signs_and_centres(monkeypatch):
    policy = RandAugment(num_layers=1, magnitude=15)
    calls = record_calls(monkeypatch, 16000, policy)
    for name, argument in policy.arguments().items():
        drawn = [call[1:] for call in calls if call[0] == name]
        if name == "Cutout":
            assert {half_size for half_size, _ in drawn} == {60}
            rows, columns = zip(*(map(int, centre) for _, centre in drawn), strict=True)
            assert set(rows) == set(range(33))
            assert set(columns) == set(range(20))
            assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.15
        elif name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"):
            assert set(drawn) == {argument, (-argument[0],)}
            assert 0.4 < np.mean([value > 0 for (value,) in drawn]) < 0.6
        else:
            assert set(drawn) == {argument}


def test_layers_compose_in_the_order_drawn():
    image, policy = IMAGES["noise_32x32"], RandAugment(num_layers=3, magnitude=15)
    for seed in range(20):
        rng, expected = np.random.default_rng(seed), image
        for _ in range(3):
            name = list(REFERENCES)[rng.integers(16)]
            argument = policy.arguments()[name]
            if name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"):
                argument = (-argument[0],) if rng.random() < 0.5 else argument
            if name == "Cutout":
                argument += (rng.integers((32, 32)),)
            expected = randaugment.OPERATORS[name](expected, *argument)
        np.testing.assert_array_equal(policy(image, np.random.default_rng(seed)), expected)


def test_deterministic_in_the_generator():
    image, policy = IMAGES["noise_31x37"], RandAugment(magnitude=15)
    first, again = (
        [policy(image, rng) for _ in range(10)]
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    )
    other = [policy(image, np.random.default_rng(seed)) for seed in range(10)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({output.tobytes() for output in first}) > 5


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_output_is_a_new_image_and_the_input_stays(num_layers):
    image = IMAGES["noise_31x37"][:, ::-1]  # not contiguous
    before = image.copy()
    changed = 0
    for seed in range(30):
        policy = RandAugment(num_layers=num_layers, magnitude=12)
        output = policy(image, np.random.default_rng(seed))
        assert (output.shape, output.dtype) == (image.shape, np.uint8)
        assert not np.shares_memory(output, image)
        changed += not np.array_equal(output, before)
        np.testing.assert_array_equal(image, before)
    assert changed == 0 if num_layers == 0 else changed > 20
