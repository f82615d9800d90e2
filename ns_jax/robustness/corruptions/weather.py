"""Snow, fog and spatter of ImageNet-C (frost has a file of its own).

Functions take a uint8 image [H, W, 3] and return floats on the scale of 0 to 255, not yet clipped.
"""

from collections.abc import Callable

import cv2
import numpy as np

from ns_jax.robustness.corruptions import blurs

WATER = (175, 238, 238)  # RGB
MUD = (63, 42, 20)


def snow(
    image: np.ndarray,
    rng: np.random.Generator,
    mean: float,
    sigma: float,
    zoom: float,
    threshold: float,
    radius: int,
    motion_sigma: float,
    image_weight: float,
) -> np.ndarray:
    flakes = snow_flakes(image.shape[:2], rng, mean, sigma, zoom, threshold)
    fallen = blurs.motion(flakes, radius, motion_sigma, rng.uniform(-135, -45))
    return with_snow(image, fallen, image_weight)


def snow_flakes(
    size: tuple[int, int],
    rng: np.random.Generator,
    mean: float,
    sigma: float,
    zoom: float,
    threshold: float,
) -> np.ndarray:
    """A layer uint8 [H, W] of flakes that do not move."""
    layer = blurs.zoom(rng.normal(mean, sigma, size)[..., None], zoom)[..., 0]
    layer[layer < threshold] = 0
    return np.asarray(np.clip(layer, 0, 1) * 255, np.uint8)


def with_snow(image: np.ndarray, layer: np.ndarray, image_weight: float) -> np.ndarray:
    """The image whitened, and the layer uint8 [H, W] with itself upside down laid over it."""
    pixels = image.astype(np.float32)
    white = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) * 1.5 + 127.5
    brighter = cv2.max(pixels, cv2.merge([white] * 3))
    whitened = cv2.addWeighted(pixels, image_weight, brighter, 1 - image_weight, 0)
    layers = layer.astype(np.float32) + layer[::-1, ::-1]
    return whitened + cv2.merge([layers] * 3)


def fog(image: np.ndarray, rng: np.random.Generator, intensity: float, decay: float) -> np.ndarray:
    height, width = image.shape[:2]
    clouds = plasma(max(height, width), rng, decay)[:height, :width].astype(np.float32)
    most = float(image.max()) / 255
    foggy = image.astype(np.float32) + cv2.merge([clouds * (255 * intensity)] * 3)
    return foggy * np.float32(most / (most + intensity))


def plasma(size: int, rng: np.random.Generator, decay: float) -> np.ndarray:
    """Clouds from 0 to 1, float64 `[s, s]`, s the power of two from `size` on; they wrap around.

    Diamond-square: midpoints are the mean of four neighbours and a uniform value. The range of that
    is the *square* of a roughness that begins at 100 and is divided by `decay` at each level.
    """
    side = step = 1 << (size - 1).bit_length()
    heights = np.zeros((side, side))
    roughness = 100.0

    def between(neighbours: np.ndarray) -> np.ndarray:
        noise = rng.uniform(-roughness, roughness, neighbours.shape)
        return neighbours / 4 + roughness * noise

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        middles = between(rows + np.roll(rows, -1, 1))
        heights[half::step, half::step] = middles
        heights[::step, half::step] = between(
            middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        )
        heights[half::step, ::step] = between(
            middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        )
        step, roughness = half, roughness / decay
    heights -= heights.min()
    return heights / heights.max()


def spatter(
    image: np.ndarray,
    rng: np.random.Generator,
    mean: float,
    sigma: float,
    smoothing: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> np.ndarray:
    layer = liquid(image.shape[:2], rng, mean, sigma, smoothing, threshold)
    if not mud:
        return with_water(image, layer, strength)
    cover = blurs.gaussian(np.asarray(layer > threshold, np.float32), strength)
    cover[cover < 0.8] = 0
    return _each_channel(image, lambda pixels, colour: pixels * (1 - cover) + cover * colour, MUD)


def liquid(
    size: tuple[int, int],
    rng: np.random.Generator,
    mean: float,
    sigma: float,
    smoothing: float,
    threshold: float,
) -> np.ndarray:
    """Where there is liquid, and how much: float64 [H, W], 0 or above the threshold."""
    layer = blurs.gaussian(rng.normal(mean, sigma, size), smoothing)
    layer[layer < threshold] = 0
    return layer


def with_water(image: np.ndarray, layer: np.ndarray, strength: float) -> np.ndarray:
    """Drops added to the image where `layer` [H, W], 0 to 1, is, embossed from their borders."""
    amount = np.asarray(layer * 255, np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(amount, 50, 150), cv2.DIST_L2, 5)
    smooth = cv2.blur(np.minimum(distance, 20), (3, 3))
    relief = cv2.equalizeHist(np.asarray(smooth, np.uint8))
    emboss = np.asarray([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    relief = cv2.blur(cv2.filter2D(relief, cv2.CV_8U, emboss), (3, 3))
    drops = amount.astype(np.float32) * relief
    drops = drops * np.float32(strength / max(drops.max(), 1))  # a small image may have none
    return _each_channel(image, lambda pixels, colour: pixels + drops * colour, WATER)


def _each_channel(
    image: np.ndarray,
    change: Callable[[np.ndarray, float], np.ndarray],
    colours: tuple[int, int, int],
) -> np.ndarray:
    channels = zip(cv2.split(image), colours, strict=True)
    return cv2.merge([change(pixels.astype(np.float32), colour) for pixels, colour in channels])
