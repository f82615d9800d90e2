"""Which files are images, as their names say: one list for directories and for tar files."""

from collections.abc import Mapping

# Of the kinds that `headers` and `decoding` read ...
READ = frozenset(
    ("jpg", "jpeg", "jpe", "jif", "jfif", "jfi", "png", "apng", "webp", "gif", "bmp", "dib")
    + ("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif", "avifs")
    + ("jp2", "j2k", "jpf", "jpx", "jpc", "j2c")
)
# ... and of images that they do not: these count as bad ones, so that nobody misses them unawares.
UNREAD = frozenset(
    ("heic", "heif", "hif", "jxl", "jxr", "wdp", "svg", "svgz", "psd", "tga", "pcx", "hdr", "exr")
    + ("pam", "pfm", "dds", "ras", "xbm", "xpm", "qoi", "dcm")
    + ("dng", "arw", "sr2", "cr2", "cr3", "crw", "nef", "nrw", "orf", "pef", "raf", "raw", "rw2")
)
NONE = ""
_SHOWN = 10  # endings in a line
_LONGEST = 10  # letters; what is longer, or not of letters and digits, is a part of the name


def of(name: str) -> str:
    """A file's ending, `jpg` of `a.b.JPG`; "" of a name that has none: `n0144`, `take 1.5`."""
    ending = name.rpartition(".")[2] if "." in name else NONE
    sound = ending.isascii() and ending.isalnum() and ending[0].isalpha()
    return ending.lower() if sound and len(ending) <= _LONGEST else NONE


def is_images(ending: str) -> bool:
    return ending in READ or ending in UNREAD


def counted(numbers: Mapping[str, int]) -> str:
    """`2 .db, 1 .md files and 3 files without an ending`: how many have which."""
    named = sorted((ending for ending in numbers if ending), key=lambda e: (-numbers[e], e))
    parts = [f"{numbers[ending]:,} .{ending}" for ending in named[:_SHOWN]]
    if others := sum(numbers[ending] for ending in named[_SHOWN:]):
        parts.append(f"{others:,} other")
    text = f"{', '.join(parts)} files" if parts else ""
    without = f"{numbers[NONE]:,} files without an ending" if numbers.get(NONE) else ""
    return " and ".join(filter(None, (text, without)))
