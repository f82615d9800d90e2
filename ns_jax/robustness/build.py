"""The suites that a config asks for, with all that can be checked before the first pass."""

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import config_dict

from ns_jax import files
from ns_jax.data import crops, decoding, matching
from ns_jax.data import open as open_lib
from ns_jax.data.listing import listing
from ns_jax.data.source import Source
from ns_jax.digest import Digest
from ns_jax.errors import InputError, MissingFileError
from ns_jax.robustness import corruptions, imagenet, images, passes, perturbations, suites, video
from ns_jax.robustness.attacks import Attack
from ns_jax.robustness.passes import Network, Pass, Seen
from ns_jax.robustness.suites import Suite

IMAGENET = ("a", "r", "v2", "sketch", "real", "c", "p")
ATTACKS = ("fgsm", "pgd")
ANYBODYS = ("own", *ATTACKS)
KNOWN = IMAGENET + ANYBODYS
SUBSETS = {"a": "a", "r": "r"}  # suites of 200 classes, among which alone a network chooses
UNCROPPED = "none"  # sets that come cropped are not cropped again
TFDS = "tfds:imagenet2012_corrupted"
TFDS_NOTE = (
    "made by TensorFlow Datasets, not ImageNet-C as released: not to be compared with published "
    "numbers (docs/robustness.md)"
)
FROST_NOTE = "frost without the six photographs is a stand-in (robustness.frost)"


def build(config: config_dict.ConfigDict, networks: Sequence[Network]) -> list[Suite]:
    """The suites of `robustness.suites`, for a network or several of the same classes.

    Raises InputError for what does not go together: unknown names, sets without all classes, a
    network of other classes, attacks on one without gradients.
    """
    first, asked = networks[0], names(config.robustness.suites)
    without = [one.path for one in networks if not one.has_gradients]
    if without and (attacks := [name for name in asked if name in ATTACKS]):
        raise InputError(
            f"{' and '.join(attacks)} need gradients, which {without[0]} does not give; name a "
            "checkpoint, or leave them out of robustness.suites"
        )
    for name in filter(IMAGENET.__contains__, asked):
        imagenet.check_network(first.class_names, first.path, name)
    makers: dict[str, Callable[[], list[Suite]]] = {
        "c": lambda: [_imagenet_c(config, first)],
        "p": lambda: [_imagenet_p(config, first)],
        "real": lambda: [_real(config, first)],
        "own": lambda: _own(config, first),
        "fgsm": lambda: [_attacks(config, first, "fgsm")],
        "pgd": lambda: [_attacks(config, first, "pgd")],
    }
    found: list[Suite] = []
    for name in asked:
        make = makers.get(name, functools.partial(_images, config, first, name))
        made = make()
        found += made if isinstance(made, list) else [made]
    return found


def names(asked: str) -> list[str]:
    """The suites in `a,c,own`. Raises InputError for one that is unknown, and for none."""
    found = list(dict.fromkeys(name.strip() for name in asked.split(",") if name.strip()))
    unknown = [name for name in found if name not in KNOWN]
    if unknown or not found:
        raise InputError(
            f"robustness.suites is {asked!r}; known: {', '.join(KNOWN)}, with commas between"
        )
    return found


def check_in_selftrain(config: config_dict.ConfigDict, view: crops.Preprocessing) -> None:
    """Raises InputError for suites that a self-training, whose networks have `view`, cannot run."""
    asked = names(",".join(config.selftrain.robustness))
    if not set(asked) <= set(ANYBODYS):
        raise InputError(
            f"selftrain.robustness is {tuple(asked)}; in a self-training there are "
            f"{', '.join(ANYBODYS)}; for the others run the program robustness afterwards"
        )
    if not config.data.test:
        raise InputError("selftrain.robustness needs data.test, whose images it corrupts")
    if "own" in asked:
        _making(config, view)


def _source_name(config: config_dict.ConfigDict, suite: str) -> str:
    name = config.robustness[suite]
    if not name:
        raise InputError(
            f"suite {suite} is asked for, but robustness.{suite} is empty; name its images, as "
            f"--config.robustness.{suite}=folder:DIR"
        )
    return name


def _images(config: config_dict.ConfigDict, network: Network, suite: str) -> Suite:
    """ImageNet-A, -R, -V2 and -Sketch."""
    source = open_lib.open_named(config, _source_name(config, suite))
    subset = SUBSETS.get(suite, "")
    among = None
    if subset:
        among = np.sort(imagenet.numbers(imagenet.wnids(subset), network.class_names))
    shown = imagenet.match(source, network.class_names, network.path, subset)
    one = Pass(suite, lambda: shown, passes.measure_top, among=among)
    return suites.Accuracy(suite, one, f"among {len(among)} classes" if among is not None else "")


def _real(config: config_dict.ConfigDict, network: Network) -> Suite:
    """Top-1 where any of an image's classes is right; images that show none are left out."""
    source = open_lib.open_named(config, _source_name(config, "real"))
    if not config.robustness.real_labels:
        raise InputError("suite real needs robustness.real_labels, the file real.json")
    labels_path = os.path.expanduser(config.robustness.real_labels)
    labels = imagenet.real_labels(labels_path)
    imagenet.image_number(source[0]["key"], source)  # a set of other names is said now
    places = imagenet.numbers(imagenet.wnids(), network.class_names)

    def measure(seen: Seen) -> dict[str, np.ndarray]:
        hits = np.full((len(seen.labels), 2), np.nan, np.float32)
        for row, number in enumerate(seen.labels):
            if seen.readable[row] and labels[number]:
                right = np.isin(seen.classes[row], places[labels[number]])
                hits[row] = right[0], right.any()
        return {"top1": hits[:, 0], "top5": hits[:, 1]}

    numbered = images.numbered(source, len(labels))
    digest = str(Digest(files.read(labels_path)))
    one = Pass("real", lambda: numbered, measure, inputs={"real_labels": digest})
    return suites.Accuracy("real", one, "any of an image's classes counts")


def _imagenet_c(config: config_dict.ConfigDict, network: Network) -> Suite:
    where = _source_name(config, "c").rstrip("/")
    if ":" not in where:
        where = f"folder:{where}"
    chosen = _chosen(config.robustness.corruptions, corruptions.CORRUPTIONS, corruptions.EXTRA)
    by_corruption = {}
    for corruption in chosen:
        severities = [_set_of(where, corruption, severity) for severity in range(1, 6)]
        for name in severities:
            kind, _, directory = name.partition(":")
            if kind == "folder":
                directory = os.path.expanduser(directory)
                if not files.exists(directory):
                    raise MissingFileError(
                        f"robustness.c: there is no {directory}; ImageNet-C has a directory for "
                        "each corruption, 1 to 5 in it, and in these the classes"
                    )
                imagenet.check_folders(directory)
        by_corruption[corruption] = [
            _labelled_pass(config, network, f"c-{corruption}-{severity}", name, UNCROPPED)
            for severity, name in enumerate(severities, 1)
        ]
    clean = None
    if config.robustness.clean:
        clean = _labelled_pass(config, network, "c-clean", config.robustness.clean, None)
    note = TFDS_NOTE if where.startswith(TFDS) else ""
    return suites.Corruptions("c", by_corruption, clean, published=True, note=note)


def _set_of(where: str, corruption: str, severity: int) -> str:
    """The source of a corruption at a severity."""
    if "{corruption}" in where:
        return where.replace("{corruption}", corruption).replace("{severity}", str(severity))
    if where.startswith(TFDS):
        return f"{TFDS}/{corruption}_{severity}:validation"
    return f"{where}/{corruption}/{severity}"


def _labelled_pass(
    config: config_dict.ConfigDict, network: Network, name: str, source_name: str, crop: str | None
) -> Pass:
    """A set of ImageNet's thousand classes, opened when it is its turn."""

    def opened() -> Source:
        source = open_lib.open_named(config, source_name)
        return imagenet.match(source, network.class_names, network.path)

    return Pass(name, opened, passes.measure_top, crop=crop)


def _imagenet_p(config: config_dict.ConfigDict, network: Network) -> Suite:
    """Videos in `DIR/PERTURBATION/WNID/*.mp4`."""
    root = os.path.expanduser(_source_name(config, "p").removeprefix("folder:").rstrip("/"))
    every = perturbations.PERTURBATIONS, perturbations.EXTRA
    chosen = _chosen(config.robustness.perturbations, *every)
    by_perturbation = {}
    for perturbation in chosen:
        directory = f"{root}/{perturbation}"
        if not files.exists(directory):
            raise MissingFileError(
                f"robustness.p: there is no {directory}; ImageNet-P has a directory for each "
                "perturbation, and in these the classes with their videos"
            )
        imagenet.check_folders(directory)
        frames = perturbations.num_frames(perturbation)
        if first := _video_files(directory)[:1]:
            _check_video(f"{directory}/{first[0]}", frames)
        by_perturbation[perturbation] = Pass(
            f"p-{perturbation}",
            functools.partial(_videos, directory, frames, network.class_names),
            suites.measure_frames(frames, perturbation),
            crop=UNCROPPED,
        )
    return suites.Flips("p", by_perturbation, published=True)


def _check_video(path: str, frames: int) -> None:
    try:
        video.read_frames(path, frames)
    except decoding.BadImageError as error:
        raise InputError(f"{error}: OpenCV cannot read the first video of robustness.p") from None


def _videos(directory: str, frames: int, class_names: tuple[str, ...]) -> Source:
    keys = _video_files(directory)
    labels = imagenet.numbers([os.path.dirname(key) for key in keys], class_names)
    paths = [f"{directory}/{key}" for key in keys]
    return images.videos(f"folder:{directory}", paths, labels.tolist(), class_names, frames)


def _video_files(directory: str) -> list[str]:
    return [key for key in listing(directory).keys if key.lower().endswith(".mp4")]


def _own(config: config_dict.ConfigDict, network: Network) -> list[Suite]:
    """Corruptions and sequences of `data.test`."""
    settings = config.robustness
    source, chosen = _test_images(config, network)
    view = network.view(None)
    making, kinds, sequences = _making(config, view)

    def one(name: str, made: Callable[[], Source]) -> Pass:
        return Pass(
            name,
            made,
            passes.measure_top,
            crop=UNCROPPED,
            chosen=chosen,
            inputs={"making": making.inputs()},
        )

    by_corruption = {
        kind: [
            one(
                f"own-{kind}-{severity}",
                functools.partial(images.corrupted, source, kind, severity, making),
            )
            for severity in range(1, 6)
        ]
        for kind in kinds
    }
    clean = Pass("own-clean", lambda: source, passes.measure_top, chosen=chosen)
    note = f"severities of {making.variant} pixels"
    if "frost" in kinds and not settings.frost:
        note += f"; {FROST_NOTE}"
    found: list[Suite] = [suites.Corruptions("own", by_corruption, clean, False, note)]
    if sequences:
        indices = np.arange(len(source)) if chosen is None else chosen
        by_perturbation = {}
        for kind in sequences:
            frames = perturbations.num_frames(kind)
            by_perturbation[kind] = Pass(
                f"own-flips-{kind}",
                functools.partial(images.sequences, source, indices, kind, making, frames),
                suites.measure_frames(frames, kind),
                crop=UNCROPPED,
                inputs={"making": making.inputs(), "images": len(indices)},
            )
        found.append(suites.Flips("own_flips", by_perturbation, published=False))
    return found


def _making(
    config: config_dict.ConfigDict, view: crops.Preprocessing
) -> tuple[images.Making, list[str], list[str]]:
    """How own images are made, the corruptions and the perturbations of sequences.

    One of each corruption is made: a size, a variant or photographs that do not do are said now.
    """
    settings = config.robustness
    kinds = _chosen(settings.corruptions, corruptions.CORRUPTIONS, corruptions.EXTRA)
    sequences = []
    if settings.perturbations != "none":
        every = perturbations.PERTURBATIONS, perturbations.EXTRA
        sequences = _chosen(settings.perturbations, *every)
    variant = settings.variant or corruptions.nearest(view.size)
    making = images.Making(view, settings.seed, variant, os.path.expanduser(settings.frost))
    grey = np.full((making.view.size, making.view.size, 3), 128, np.uint8)
    for kind in kinds:
        corruptions.corrupt(grey, kind, 1, making.seed, 0, making.variant, making.frost)
    return making, kinds, sequences


def _attacks(config: config_dict.ConfigDict, network: Network, name: str) -> Suite:
    settings = config.robustness
    source, chosen = _test_images(config, network)
    several: dict = {"steps": 1}
    if name == "pgd":
        several = {
            "steps": settings.pgd_steps,
            "step_size": settings.pgd_step_size,
            "restarts": settings.pgd_restarts,
            "seed": settings.seed,
        }
    by_epsilon = {
        float(epsilon): Pass(
            f"{name}-{epsilon:g}",
            lambda: source,
            passes.measure_top,
            chosen=chosen,
            attack=Attack(float(epsilon), label=settings.attack_label, **several),
        )
        for epsilon in settings[f"{name}_epsilons"]
    }
    return suites.Attacks(name, by_epsilon)


def _test_images(
    config: config_dict.ConfigDict, network: Network
) -> tuple[Source, np.ndarray | None]:
    """`data.test`, its classes numbered as the network's, and the indices of those looked at."""
    source = open_lib.open_from_config(config, "test")
    source = matching.match(source, network.class_names, network.path)
    most = config.robustness.max_images
    chosen = None
    if most is not None and most < len(source):
        chosen = np.linspace(0, len(source) - 1, most).round().astype(np.int64)  # evenly spread
    return source, chosen


def _chosen(asked: str, usual: tuple[str, ...], extra: tuple[str, ...]) -> list[str]:
    """Those asked for, with commas between; the benchmark's if none is."""
    found = [name.strip() for name in asked.split(",") if name.strip()] or list(usual)
    unknown = [name for name in found if name not in usual + extra]
    if unknown:
        raise InputError(f"unknown: {', '.join(unknown)}; known: {', '.join(usual + extra)}")
    return list(dict.fromkeys(found))
