"""Images from whole numbers alone, the same in every version of Python (from 3.7) and NumPy."""

import numpy as np


def mixed(height: int = 224, width: int = 224) -> np.ndarray:
    """uint8 [H, W, 3]: colour gradients, shapes with hard edges, grey and black, and a texture."""
    y, x = np.mgrid[:height, :width]
    image = np.stack(
        [x * 255 // width, y * 255 // height, 255 - (x + y) * 255 // (width + height)], axis=-1
    )
    inside = (y - height // 3) ** 2 + (x - width // 4) ** 2 < (min(height, width) // 6) ** 2
    image[inside] = (230, 40, 60)
    image[height * 3 // 5 : height * 4 // 5, width // 8 : width // 3] = (128, 128, 128)
    image[height * 17 // 20 : height * 19 // 20, width // 8 : width // 3] = (0, 0, 0)
    texture = np.random.RandomState(7).randint(0, 256, (height, width, 3))
    right = slice(width // 2, None)
    image[:, right] = (image[:, right] * 2 + texture[:, right]) // 3
    return image.astype(np.uint8)


def ice(number: int, height: int = 300, width: int = 340) -> np.ndarray:
    """uint8 [H, W, 3]: in place of a photograph of frost."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * (3 + number) + y * (5 - number) + 40 * c) % 256 for c in range(3)]
    return np.stack(planes, axis=-1).astype(np.uint8)
