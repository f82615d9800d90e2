"""Images as tiles: a sprite of WebP for each group, in the page itself."""

import base64
import dataclasses

import cv2
import numpy as np

from ns_jax.data import decoding
from ns_jax.data.source import Source

SIDE = 96  # pixels of a tile
COLUMNS = 8  # of a sprite
TILE_BYTES = 3200  # of WebP for each tile: 1,000 of them in base64 are 4.3 MB
QUALITIES = (82, 65, 45, 25, 10, 1)
GREY = 128  # beside an image that is not square


@dataclasses.dataclass(frozen=True)
class Sprite:
    """Tiles side by side, in rows of `COLUMNS`, as a data URI; `broken`: numbers of grey tiles."""

    uri: str
    count: int
    broken: frozenset[int]

    @property
    def rows(self) -> int:
        return -(-self.count // COLUMNS)


def sprite(source: Source, indices: list[int]) -> Sprite:
    """The images of these indices; one that cannot be read is a grey tile."""
    sheet = np.full((-(-len(indices) // COLUMNS) * SIDE, COLUMNS * SIDE, 3), GREY, np.uint8)
    broken = set()
    for number, index in enumerate(indices):
        row, column = divmod(number, COLUMNS)
        place = sheet[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
        try:
            place[:] = tile(decoding.decode(source[index]["image"], source.max_pixels))
        except (decoding.BadImageError, OSError):
            broken.add(number)
    return Sprite(_uri(sheet, TILE_BYTES * len(indices)), len(indices), frozenset(broken))


def tile(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB `[H, W, 3]`, the whole of it, in the middle of `[SIDE, SIDE, 3]`."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    small = cv2.resize(pixels, size, interpolation=how)
    whole = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    whole[top : top + size[1], left : left + size[0]] = small
    return whole


def _uri(sheet: np.ndarray, most_bytes: int) -> str:
    """As WebP, of the best quality that fits."""
    data = b""
    for quality in QUALITIES:
        _, encoded = cv2.imencode(".webp", sheet[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
        data = encoded.tobytes()
        if len(data) <= most_bytes:
            break
    return "data:image/webp;base64," + base64.b64encode(data).decode()
