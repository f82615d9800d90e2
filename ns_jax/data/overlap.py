"""Images of one source that are in another one too, byte for byte."""

import concurrent.futures

import numpy as np

from ns_jax import files
from ns_jax.data.source import Source
from ns_jax.digest import Digest
from ns_jax.errors import InputError
from ns_jax.progress import one_line, say

MOST = 20_000  # images of a source that are read; of a larger one as many, in runs drawn at random
RUN = 100  # that follow one another, which formats that read many at once have for little more

_passed: set[tuple[str, str]] = set()  # fingerprints: a self-training checks before each training


def check(holdout: Source, labelled: Source) -> None:
    """Raises InputError if images of `holdout` are trained on, as some of `labelled`.

    Compares contents, of at most 20,000 images of each, and says where it did not look at all.
    """
    pair = holdout.fingerprint, labelled.fingerprint
    if pair in _passed:
        return
    held, trained = _contents(holdout), _contents(labelled)
    shared = [(held[content], trained[content]) for content in held.keys() & trained.keys()]
    looked = [
        f"{min(MOST, len(source)):,} of {len(source):,} images of {source.name}"
        for source in (holdout, labelled)
    ]
    if shared:
        pairs = sorted((holdout[a]["key"], labelled[b]["key"]) for a, b in sorted(shared)[:5])
        raise InputError(
            f"{len(shared):,} images of data.holdout={holdout.name} are in "
            f"data.labelled={labelled.name} too: "
            + ", ".join(f"{one_line(a)} = {one_line(b)}" for a, b in pairs)
            + f" (of {looked[0]}, {looked[1]}). Hold out images that are not trained on"
        )
    if max(len(holdout), len(labelled)) > MOST:
        say(f"held-out images were looked for among the labelled ones: {looked[0]}, {looked[1]}")
    _passed.add(pair)


def _contents(source: Source) -> dict[str, int]:
    """Digests of images and their indices. Images without content are left out."""
    indices = np.arange(len(source))
    if len(source) > MOST:
        runs = np.random.default_rng(0).choice(len(source) // RUN, MOST // RUN, replace=False)
        indices = (np.sort(runs)[:, None] * RUN + np.arange(RUN)).ravel()

    def digest(index: int) -> tuple[str, int]:
        image = source.records[index][0]
        data = image if isinstance(image, bytes) else repr(image.shape).encode() + image.tobytes()
        return str(Digest(data)) if data else "", index

    with concurrent.futures.ThreadPoolExecutor(files.THREADS) as pool:
        found = dict(pool.map(digest, indices.tolist()))
    found.pop("", None)
    return found
