"""One pass of one network over one set of images, and the file that says what came of it.

A suite is a list of passes. Each is done once: what a run that was killed has finished stands in
the workdir, `robustness/NETWORK/PASS.json` and `.parquet`, and is not done again.
"""

import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ns_jax import files, model_card
from ns_jax import workdir as workdir_lib
from ns_jax.checkpoints import checkpoint
from ns_jax.data import bad_images, crops
from ns_jax.data.source import Source
from ns_jax.data.workers import LoaderSettings
from ns_jax.foreign.exported import ExportedNetwork
from ns_jax.inference import predictor
from ns_jax.inference.mixture import Mixture
from ns_jax.inference.predictor import Predictor
from ns_jax.model_card import ModelCard
from ns_jax.parallel import processes
from ns_jax.progress import Progress, say
from ns_jax.robustness.attacks import Attack, attack_step

BEST = 5  # classes of an image that are looked at


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a network made of a pass's images, in order."""

    classes: np.ndarray  # int32 [N, up to 5], best first
    labels: np.ndarray  # int32 [N]: the network's number of the true class; -1: unknown
    readable: np.ndarray  # bool [N]

    def top(self, k: int) -> np.ndarray:
        """Whether the true class is among the k best: float32 `[N]`, NaN where there is none."""
        hits = (self.classes[:, :k] == self.labels[:, None]).any(1)
        return np.where(self.readable & (self.labels >= 0), hits, np.nan).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Pass:
    """Images, how the network sees them, and what is measured.

    `measure` makes of what was seen float32 `[M]` arrays by name, a number for each image or video,
    NaN for unreadable ones.
    """

    name: str
    # When it is its turn, for a set may have millions of files; labels are the network's numbers.
    open: Callable[[], Source]
    measure: Callable[[Seen], dict[str, np.ndarray]]
    crop: str | None = None  # of the view; None: the network's
    among: np.ndarray | None = None  # int32 ascending: the classes that compete; None: all
    chosen: np.ndarray | None = None  # indices of the images; None: all
    attack: Attack | None = None
    inputs: dict = dataclasses.field(default_factory=dict)  # what else results depend on


class Network:
    """A checkpoint or an exported file, as often as a suite's view needs it."""

    def __init__(
        self,
        path: str,
        size: int | None = None,
        crop: str = "",
        like: "Network | None" = None,
        file: ExportedNetwork | None = None,
    ):
        """`size` and `crop`, where given, take the place of every view's.

        `file`: what `path` holds, if it is no checkpoint. The classes are in the order of `like`'s.
        Raises InputError if they are others.
        """
        self.path, self._size, self._crop, self._file = path, size, crop, file
        if file:
            self.class_names, self._own_view = file.class_names, file.view
        else:
            loaded = checkpoint.load_model(path)
            if like:
                loaded = model_card.with_classes(loaded, like.class_names, path, like.path)
            self._card, self._variables = loaded
            self.class_names, self._own_view = self._card.class_names, self._card.preprocessing
        self._predictors: dict[crops.Preprocessing, Predictor | Mixture] = {}
        self.digest = self.seeing(None).digest

    @property
    def has_gradients(self) -> bool:
        return self._file is None

    def view(self, crop: str | None) -> crops.Preprocessing:
        """How images are seen where a suite asks for a crop, or for the network's own (None)."""
        own = self._own_view
        crop = self._crop or crop or own.crop
        return dataclasses.replace(own, size=self._size or own.size, crop=crop)

    def seeing(self, crop: str | None) -> Predictor | Mixture:
        """The network with the view of a crop. Raises InputError for a size that it cannot take."""
        view = self.view(crop)
        if view not in self._predictors:
            self._predictors[view] = self._predictor(view)
        return self._predictors[view]

    def _predictor(self, view: crops.Preprocessing) -> Predictor | Mixture:
        if self._file:
            return Mixture(None, [self._file.seeing(view)], [])
        card: ModelCard = dataclasses.replace(self._card, preprocessing=view)
        return Predictor([(card, self._variables)])


@dataclasses.dataclass(frozen=True)
class Settings:
    """How passes are run. No result depends on it."""

    reading: LoaderSettings
    batch_size: int
    max_bad_fraction: float


def run(
    one: Pass, networks: Sequence[Network], directory: pathlib.Path, settings: Settings
) -> list[dict[str, np.ndarray]]:
    """What `one.measure` has of each network, `{"name": float32 [M], ...}`; from its files where it
    is done.

    Called by all processes. Raises InputError for files of a pass of other inputs.
    """
    source = one.open()
    return [_run(one, source, network, directory, settings) for network in networks]


def _run(
    one: Pass, source: Source, network: Network, directory: pathlib.Path, settings: Settings
) -> dict[str, np.ndarray]:
    inputs = {
        "model": network.digest,
        "source": source.fingerprint,
        "view": dataclasses.asdict(network.view(one.crop)),
        "attack": one.attack and dataclasses.asdict(one.attack),
        "chosen": None if one.chosen is None else len(one.chosen),
        **one.inputs,
    }
    path = directory / network.digest / one.name
    if not processes.call_on_first(_is_done, path, inputs):
        seen, bad = _look(one, network, source, settings)
        processes.call_on_first(_write, path, inputs, one.measure(seen), len(bad))
        if len(bad):
            say("\n".join([f"{source.name}: {len(bad)} unreadable", *bad.lines()]))
    return _read(path)


def _look(
    one: Pass, network: Network, source: Source, settings: Settings
) -> tuple[Seen, bad_images.BadImages]:
    indices = np.arange(len(source)) if one.chosen is None else one.chosen
    bad = bad_images.BadImages(source, settings.max_bad_fraction, num_images=len(indices))
    share = np.array_split(indices, processes.count())[processes.index()]
    k = min(BEST, len(network.class_names if one.among is None else one.among))
    parts = [(np.zeros((0, k), np.int32), np.zeros(0, np.int32), np.zeros(0, bool))]
    with Progress(one.name, len(share)) as progress:
        for batch in _classified(one, network.seeing(one.crop), source, share, settings):
            ok = np.asarray([status == "ok" for status in batch["status"]])
            bad.add(batch["index"][~ok])
            parts.append((batch["classes"][:, :k], batch["label"], ok))
            progress.advance(len(ok))
    arrays = [np.concatenate(found) for found in zip(*parts, strict=True)]
    classes, labels, readable = (np.concatenate(processes.gather(array)) for array in arrays)
    bad.add(processes.union(bad.indices()))
    return Seen(classes, labels, readable), bad


def _classified(
    one: Pass, network: Predictor | Mixture, source: Source, share: np.ndarray, settings: Settings
) -> Iterator[dict]:
    """Batches with `classes`, the best of each image or of what an attack made of it."""
    reading, size = settings.reading, settings.batch_size
    if not one.attack:
        # As labelling and evaluation: one compiled pass.
        most = len(network.class_names if one.among is None else one.among)
        k = min(predictor.CLASSES_KEPT, most)
        yield from network.predict(source, [share], reading, k, size, classes=one.among)
        return
    assert isinstance(network, Predictor)  # others have no gradients, which is told before
    told = {"attack": one.attack.numbers()}
    k = min(BEST, len(network.class_names))
    for batch in network.compute(attack_step, source, [share], reading, size, told, k=k):
        yield {**batch, "classes": batch["result"]}


def _write(path: pathlib.Path, inputs: dict, measured: dict, num_bad: int) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table(measured), buffer, compression="zstd")
    files.write(f"{path}.parquet", buffer.getvalue())
    means = {name: _mean(values) for name, values in measured.items()}
    content = {"inputs": inputs, "means": means, "num_corrupt": num_bad}
    workdir_lib.write_json(path.with_name(f"{path.name}.json"), content)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else None


def _is_done(path: pathlib.Path, inputs: dict) -> bool:
    record = path.with_name(f"{path.name}.json")
    if not record.exists():
        return False
    try:
        found = json.loads(record.read_text())["inputs"]
        _read(path)
    except (ValueError, KeyError, TypeError, OSError):
        say(f"{record} or what lies beside it is damaged; the pass is done again")
        return False
    workdir_lib.check_inputs(found, inputs, record)
    return True


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    table = pq.read_table(io.BytesIO(files.read(f"{path}.parquet")))
    return {name: table.column(name).to_numpy() for name in table.column_names}


def measure_top(seen: Seen) -> dict[str, np.ndarray]:
    """Whether each image's class is the best one, and among the five best."""
    return {"top1": seen.top(1), "top5": seen.top(BEST)}
