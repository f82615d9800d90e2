"""Networks in files of other formats (ONNX, StableHLO), ours or anybody's, at work."""

import concurrent.futures
import copy
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from ns_jax import files
from ns_jax.data import crops
from ns_jax.data.source import digest
from ns_jax.digest import Digest
from ns_jax.errors import InputError, MissingFileError
from ns_jax.foreign import beside, onnx_files, onnx_session, stablehlo
from ns_jax.foreign.network import Network, rows_for_a_core
from ns_jax.predictions import classes, scores
from ns_jax.progress import say

ONNX, STABLEHLO = ".onnx", ".stablehlo"
ENDINGS = (ONNX, STABLEHLO)
PIECE_PIXELS = 2**20  # that go through a network at once: activations of about 0.1 GB
LATENCY_RUNS = 15
TRIED = 4  # random images that a file is tried on


def is_exported(name: str) -> bool:
    """Whether a name is of such a file and not of a checkpoint."""
    return os.fspath(name).lower().endswith(ENDINGS)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What files of somebody else do not say, or say wrongly; None or "" where they do."""

    class_names: str = ""  # a file with a class name a line: of the scores, in their order
    class_map: str = ""  # CSV, theirs,ours
    scores: str = ""  # "probabilities" or "logits"
    image_size: int | None = None
    crop: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What is taken of a file where neither it, nor what lies beside it, nor settings say it."""

    class_names: tuple[str, ...]
    image_size: int | None
    view: Callable[[int], crops.Preprocessing]  # of a size


class ExportedNetwork:
    """A network in a file, on this process's cores or, of ONNX, its GPU."""

    def __init__(
        self,
        path: pathlib.Path,
        network: Network,
        theirs: Sequence[str],
        view: crops.Preprocessing,
        numbering: classes.Numbering | None = None,
        kind: str = "",
        name: str = "",
    ):
        """`network`: what `path` holds, tried on images; `theirs`: the classes of its scores.

        `numbering` has the classes that these stand for, None: themselves; `kind`: of scores, ""
        to find it out; `name`: what it is called in errors, "": as the file. Raises InputError for
        what gives other than one finite score a class.
        """
        self.path, self.view, self._network = path, view, network
        self.name, self.engine = name or str(path), network.engine
        self._threads = concurrent.futures.ThreadPoolExecutor(max(1, network.calls))
        numbering = numbering or classes.Numbering({}, theirs, str(path))
        self.class_names, self._theirs = numbering.class_names, tuple(theirs)
        self.seconds, self.images, self._warm = 0.0, 0, False  # of full batches but the first
        found = self._scores(self._random_images())
        if found.shape[1] != len(theirs):
            raise InputError(
                f"{self.name} gives {found.shape[1]:,} scores an image; there are "
                f"{len(theirs):,} classes"
            )
        self._numbers = numbering.numbers(theirs)
        if not (self._numbers >= 0).any():
            raise InputError(
                f"{self.name}: none of its {len(theirs):,} classes is one of the labels'"
            )
        numbering.say_missing(theirs)
        self._order = scores.Order(self._numbers, len(self.class_names))
        self.kind = kind or self._found_kind(found)

    @property
    def num_bytes(self) -> int:
        """The size of the file, and of those that hold its weights."""
        return sum(files.size(str(path)) for path in self._files)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name the files' content, how they are read, and the engine."""
        found = []
        for path in self._files:
            with files.open_binary(str(path)) as file:
                found.append(str(hashlib.file_digest(file, Digest)))  # type: ignore[arg-type]
        read = [json.dumps(vars(self.view)), self.kind, self.engine]
        numbers = map(str, self._numbers.tolist())
        return digest("exported", *found, *read, *self._theirs, "", *self.class_names, *numbers)

    def log_probs(self, images: np.ndarray, at_once: int) -> np.ndarray:
        """uint8 `[n, S, S, 3]` -> float32 `[n, classes]`, the logarithms of its distributions.

        `at_once`: how many go through the network at most. Raises InputError for scores that are
        not finite, and for an image all of whose probability is on classes that are left out.
        """
        began = time.perf_counter()
        found = scores.log_distribution(self._scores(images, at_once), self.kind, self._order)
        if np.isnan(found).any():
            lost = int(np.isnan(found).any(1).sum())
            raise InputError(
                f"{self.name}: of {lost:,} of {len(found):,} images all of the probability is on "
                "classes that are left out; map more of them (label.class_map)"
            )
        if len(images) == at_once:
            if self._warm:
                self.seconds += time.perf_counter() - began
                self.images += len(images)
            self._warm = True
        return found

    def milliseconds(self) -> dict[str, float]:
        """`ms_one`, of an image alone (the median), and `ms_per_image`, in batches as evaluated."""
        image, times = self._random_images()[:1], []
        for _ in range(LATENCY_RUNS):
            began = time.perf_counter()
            self._scores(image)
            times.append(time.perf_counter() - began)
        alone = statistics.median(times)
        each = self.seconds / self.images if self.images else alone
        return {"ms_one": 1000 * alone, "ms_per_image": 1000 * each}

    def seeing(self, view: crops.Preprocessing) -> "ExportedNetwork":
        """The same network with images that are seen otherwise. Raises InputError for a size that
        it does not take.
        """
        fixed = self._network.images.size
        if fixed not in (None, view.size):
            raise InputError(f"{self.name} takes images of {fixed} pixels, not of {view.size}")
        other = copy.copy(self)
        other.view, other.seconds, other.images = view, 0.0, 0
        vars(other).pop("digest", None)  # which is of the view, too
        return other

    def check(self) -> None:
        """Says what will be slow."""
        if self._network.images.batch == 1:
            say(f"{self.name} takes one image at a time, which is slow; leave its batch open")

    @functools.cached_property
    def _files(self) -> list[pathlib.Path]:
        more = onnx_files.beside(self.path) if self.path.suffix.lower() == ONNX else []
        return [self.path, *more]

    def _found_kind(self, found: np.ndarray) -> str:
        """What scores float32 `[n, classes]` are, as they look. Raises InputError if unclear."""
        kind = scores.kind_of(found, partial=False)
        sums = found.sum(1)
        if kind == scores.PROBABILITIES and (np.abs(sums - 1) > scores.TOLERANCE).any():
            raise InputError(
                f"{self.name}: its scores lie between {found.min():.3g} and {found.max():.3g} and "
                f"sum to {sums.min():.3g} to {sums.max():.3g}, not to 1; say what they are: "
                '--config.label.scores=logits, or "probabilities" of a network that ends in softmax'
            )
        return kind

    def _random_images(self) -> np.ndarray:
        """uint8 `[TRIED, S, S, 3]`, from dark to bright."""
        shape = (TRIED, self.view.size, self.view.size, 3)
        noise = np.random.default_rng(0).random(shape, np.float32)
        return (noise * np.linspace(255, 32, TRIED)[:, None, None, None]).astype(np.uint8)

    def _scores(self, images: np.ndarray, at_once: int = 1) -> np.ndarray:
        """A few images at a time, or as many as the file takes, filled up with zeros: one shape."""
        form, calls, size = self._network.images, self._network.calls, self.view.size
        if calls == 1:
            rows = min(at_once, max(1, PIECE_PIXELS // size**2))
        else:
            rows = rows_for_a_core(at_once, size, calls) if calls else at_once
        rows = form.batch or rows

        def scores_from(start: int) -> np.ndarray:
            piece = images[start : start + rows]
            lacking = rows - len(piece)
            if lacking:
                piece = np.concatenate([piece, np.zeros((lacking, *images.shape[1:]), np.uint8)])
            return self._network.call(form.of(piece, self.view))

        found = self._threads.map(scores_from, range(0, len(images), rows))
        result = np.concatenate(list(found))[: len(images)]
        if not np.isfinite(result).all():
            raise InputError(f"{self.name}: its scores hold NaN or infinity")
        return result


def open_network(
    path: pathlib.Path,
    assumed: Assumed,
    settings: Settings = Settings(),  # noqa: B008  (it is frozen)
    expected: Sequence[str] = (),
) -> ExportedNetwork:
    """The network of a file, by its ending: ONNX or StableHLO.

    Its classes become those of `expected`, or if there are none keep their order. What the file
    does not say is taken from `settings`, from files beside it, or of `assumed`, which is said.
    Raises FileNotFoundError, MissingPackageError, and InputError for what is no classifier of
    images, or for classes that `expected` does not have.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    opened = onnx_session.open_file if path.suffix.lower() == ONNX else stablehlo.open_file
    network = opened(path)
    class_map = classes.read_map(settings.class_map) if settings.class_map else {}
    if network.card:
        theirs, view, kind = network.card.class_names, network.card.preprocessing, ""
    else:
        described = beside.read(path)
        theirs = _theirs(path, network, described, settings, assumed)
        view, kind = _view(path, network, described, settings, assumed), settings.scores
    numbering = classes.Numbering(class_map, expected, str(path))
    numbering.check_map(theirs)
    if not expected:
        numbering = classes.Numbering(class_map, numbering.found(theirs), str(path))
    found = ExportedNetwork(path, network, theirs, view, numbering, kind)
    if not network.card:
        say(f"{path}: its scores are {found.kind}; run by {network.engine}")
    found.check()
    return found


def _theirs(
    path: pathlib.Path,
    network: Network,
    described: beside.Described,
    settings: Settings,
    assumed: Assumed,
) -> tuple[str, ...]:
    """The classes of a foreign file's scores. Raises InputError if nothing tells them."""
    if settings.class_names:
        return classes.read_names(settings.class_names)
    if found := network.class_names or described.class_names:
        return found
    if not assumed.class_names:
        raise InputError(
            f"{path} does not name its classes; name a file with a class name a line, in the order "
            "of its scores, as label.class_names"
        )
    say(f"{path} does not name its classes; taken are those of the labelled images in their order")
    return assumed.class_names


def _view(
    path: pathlib.Path,
    network: Network,
    described: beside.Described,
    settings: Settings,
    assumed: Assumed,
) -> crops.Preprocessing:
    """How a foreign file is shown images. Raises InputError if nothing tells the size."""
    fixed, wanted = network.images.size, settings.image_size or described.size
    size = fixed or wanted or assumed.image_size
    if size is None:
        raise InputError(
            f"{path} takes images of any size; choose one: --config.foreign.image_size="
        )
    if fixed and settings.image_size not in (None, fixed):
        raise InputError(
            f"{path} takes images of {fixed} pixels; foreign.image_size is {settings.image_size}"
        )
    names = ("crop", "mean", "std", "interpolation")
    known = {
        name: getattr(settings, name) or getattr(described, name)
        for name in names
        if getattr(settings, name) or getattr(described, name)
    }
    view = dataclasses.replace(assumed.view(size), **known)
    if missing := [name for name in names if name not in known]:
        told = ", ".join(f"{name} {getattr(view, name)}" for name in missing)
        say(
            f"{path} does not say how it sees images; taken of config.data: {told}; others are "
            f"set by --config.foreign.{missing[0]} and so on"
        )
    return view
