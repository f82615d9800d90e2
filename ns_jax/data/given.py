"""Images as people have them -> as sources have them: a path, bytes, or uint8 `[H, W, 3]`."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ns_jax.errors import InputError, MissingFileError

Given = pathlib.Path | bytes | np.ndarray
MOST_NAMED = 10
_WORDS = "OSU"  # kinds of NumPy arrays that hold paths or images one by one
_BYTES = (bytes, bytearray, memoryview)


def images(given: Any) -> list[Given]:
    """One image or several: paths, bytes, file objects, Pillow's images, arrays, or what makes one.

    Raises InputError that names each place that is no image, and MissingFileError.
    """
    found, wrong = [], []
    for number, image in enumerate(_listed(given)):
        try:
            found.append(_image(image))
        except InputError as error:
            wrong.append(f"images[{number}]: {error}")
    if wrong:
        count = "one is no image" if len(wrong) == 1 else f"{len(wrong)} are no images"
        raise InputError(f"{count}: {'; '.join(wrong[:MOST_NAMED])}")
    if not found:
        raise InputError("the list of images is empty")
    paths = [path for path in found if isinstance(path, pathlib.Path)]
    if missing := [str(path) for path in paths if not path.exists()]:
        names = ", ".join(missing[:MOST_NAMED])
        raise MissingFileError(f"{len(missing)} files do not exist: {names}")
    if folders := [path for path in paths if path.is_dir()]:
        raise InputError(
            f"{folders[0]} is a directory; name its files: "
            f"sorted(pathlib.Path({str(folders[0])!r}).glob('*.jpg'))"
        )
    return found


def _listed(given: Any) -> Iterable:
    if isinstance(given, np.ndarray) and given.dtype.kind in _WORDS:
        return given.ravel().tolist()
    if isinstance(given, (str, os.PathLike, Image.Image, *_BYTES)) or hasattr(given, "read"):
        return [given]
    # Columns of tables are arrays as well, of paths or of images.
    kind = getattr(getattr(given, "dtype", None), "kind", None)
    if hasattr(given, "__array__") and kind not in tuple(_WORDS):
        array = _array(given)
        return array if array.ndim == 4 else [array]
    if isinstance(given, dict) or not hasattr(given, "__iter__"):
        return [given]
    return given


def _image(image: Any) -> Given:
    if isinstance(image, str | os.PathLike):
        return pathlib.Path(image).expanduser()
    if isinstance(image, _BYTES):
        return bytes(image)
    if isinstance(image, Image.Image):
        return _of_pillow(image)
    if hasattr(image, "read"):
        content = image.read()
        if isinstance(content, bytes):
            return content
        raise InputError("a file that was opened as text; open it with 'rb'")
    if hasattr(image, "__array__"):
        return rgb(_array(image))
    raise InputError(f"{type(image).__name__} is no path, bytes, Pillow image or array")


def _of_pillow(image: Image.Image) -> np.ndarray:
    """Upright and without transparency, as the file would be read."""
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # which Pillow would clip, as the next ones
            return rgb(_of_16_bits(np.asarray(image)))
        return rgb(np.asarray(image if image.mode in ("I", "F") else image.convert("RGB")))
    except OSError as error:  # read from its file only now
        raise InputError(f"a Pillow image that cannot be read: {error}") from None


def _array(image: Any) -> np.ndarray:
    try:
        return np.asarray(image)
    except Exception as error:  # of another library: on a GPU, with a gradient, of its own type
        raise InputError(
            f"{type(image).__name__} makes no NumPy array: {str(error).splitlines()[0]}"
        ) from None


def rgb(array: np.ndarray) -> np.ndarray:
    """uint8 RGB `[H, W, 3]` of `[H, W]` or `[H, W, C]`: grey, grey and alpha, RGB or RGBA.

    Numbers are 0..255, 0..1 if they are floats, and of 16 bits if uint16. Raises InputError.
    """
    what = f"{array.dtype} {list(array.shape)}"
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise InputError(f"{what} is no image; [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] is")
    if array.shape[-1] > 4:
        hint = "; of several grey ones: images[..., None]"
        if array.shape[0] in (1, 3, 4):
            hint = "; its channels come first: transpose(1, 2, 0)"
        raise InputError(f"{what} has {array.shape[-1]} channels, of 1 to 4{hint}")
    colours = _uint8(array, what)[..., : 1 if array.shape[-1] < 3 else 3]
    return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)))


def _uint8(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise InputError(f"{what} holds no numbers of pixels: uint8, or floats from 0 to 1")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind in "iu":
        if array.dtype == np.uint16 and high > 255:
            return _of_16_bits(array)
        if array.dtype == np.uint16 or not 0 <= low <= high <= 255:
            raise InputError(
                f"{what} holds {low:g} to {high:g}: uint8 is 0 to 255, uint16 0 to 65535; scale "
                "it, and use astype('uint8')"
            )
        return array.astype(np.uint8)
    if not 0 <= low <= high <= 1:  # not true of NaN either
        scale = "astype('uint8')" if low >= 0 and high <= 255 else "undo its normalisation"
        raise InputError(f"{what} holds {low:g} to {high:g}: floats are 0 to 1; {scale}")
    return (array.astype(np.float32) * 255 + 0.5).astype(np.uint8)


def _of_16_bits(array: np.ndarray) -> np.ndarray:
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
