"""The paper's findings against ours: one deviation at a time, over seeds.

    python -m benchmarks.ablations [--set digits] [--seeds 0 1 2 3 4] [--names base hard ...]
    python -m benchmarks.ablations --table                 (of what is there, nothing is run)

For each seed (of the labelled few, the weights and the noise): `base`, a teacher and four students,
one after the other, and for each ablation of configs/ablations.py one student of the same teacher.
Differences are paired by seed. Interrupt it whenever you like: the same command goes on.
Prints Markdown tables.
"""

import argparse
import dataclasses
import pathlib
import statistics

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import runs
from configs import ablations
from ns_jax.data import decoding
from ns_jax.data import open as open_lib
from ns_jax.selection.table import Selection

EQUAL = 1.0  # points: within these an interval says "the same"
OWN_TEACHER = ("base", "teacher_pico", "teacher_b0")
IN_STEP = ("teacher_in_step", "noised_teacher")
PRETRAINED = "pretrained"  # on hard pseudo-labels alone, then fine-tuned on labels alone
FINETUNE_SHARE = 0.2  # of the teacher's epochs
DEFAULTS = {
    "digits": ((0, 1, 2, 3, 4), (*ablations.ABLATIONS, PRETRAINED)),
    "fashion": (
        (0, 1, 2),
        ("base", "no_noise", "hard", "pool_1_16", "unbalanced", "ratio_1", "from_teacher"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """`variant` less `against`, and the sign that the paper found; 0: no difference."""

    paper: str
    variant: str
    against: str
    sign: int


FINDINGS = (
    Finding("a student beats its teacher", "student 1", "teacher", +1),
    Finding("going round again helps", "student 2", "student 1", +1),
    Finding("... and again", "student 3", "student 2", +1),
    Finding("... and again", "student 4", "student 3", +1),
    Finding("augmenting unlabelled images helps (Table 6)", "no_augmentation", "student 1", -1),
    Finding("all noise on unlabelled images helps (Table 6)", "no_noise", "student 1", -1),
    Finding("RandAugment helps", "no_randaugment_at_all", "student 1", -1),
    Finding("dropout helps", "no_dropout_at_all", "student 1", -1),
    Finding("stochastic depth helps", "no_stochastic_depth_at_all", "student 1", -1),
    Finding("noise on all images helps", "no_noise_at_all", "student 1", -1),
    Finding("noise on the teacher hurts (Table 6)", "noised_teacher", "teacher_in_step", -1),
    Finding("hard labels do as well on images of the classes", "hard", "student 1", 0),
    Finding("soft labels do better on other images", "other_pool_soft", "other_pool_hard", +1),
    Finding("a sixteenth of the pool is too little", "pool_1_16", "student 1", -1),
    Finding("a quarter of the pool is worse than all", "pool_1_4", "student 1", -1),
    Finding("selecting and balancing helps small networks", "unbalanced", "student 1", -1),
    Finding("a smaller teacher makes a worse student", "teacher_pico", "student 1", -1),
    Finding("a larger teacher makes a better student", "teacher_b0", "student 1", +1),
    Finding("a smaller student is worse", "student_pico", "student 1", -1),
    Finding("a larger student is better", "student_b0", "student 1", +1),
    Finding("1 unlabelled image for each labelled one is too few", "ratio_1", "student 1", -1),
    Finding("so are 2", "ratio_2", "student 1", -1),
    Finding("7 are better than the config's 4", "ratio_7", "student 1", +1),
    Finding("so are 14", "ratio_14", "student 1", +1),
    Finding("from scratch beats from the teacher's weights", "from_teacher", "student 1", -1),
    Finding("joint training beats pre-training and fine-tuning", PRETRAINED, "hard", -1),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", choices=DEFAULTS, default="digits")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--names", nargs="+", choices=DEFAULTS["digits"][1])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/ablations")
    parser.add_argument("--table", action="store_true", help="of what is there; run nothing")
    args = parser.parse_args()
    seeds, names = DEFAULTS[args.set]
    seeds, names = args.seeds or seeds, args.names or names
    root = args.workdir / args.set
    if not args.table:
        for seed in seeds:
            for name in names:
                run(args.set, name, root / f"seed_{seed}", seed)
    found = {seed: scores(root / f"seed_{seed}") for seed in seeds}
    print(report(args.set, {seed: one for seed, one in found.items() if one}))


def run(which: str, name: str, root: pathlib.Path, seed: int) -> None:
    """One ablation of one seed, in a directory of its name."""
    teacher = f"{root}/base/iteration_0"
    flags = list(runs.of_seed(seed))
    if name == PRETRAINED:
        _pretrain(which, root, seed)
        return
    if name not in OWN_TEACHER:
        flags.append(f"--config.selftrain.teacher={teacher}")
    if name in IN_STEP:
        flags.append(f"--config.selftrain.overrides.iteration_1.train.teacher={teacher}")
    config = f"configs/ablations.py:set={which},name={name}"
    runs.run("selftrain", root / name, config, *flags)


def _pretrain(which: str, root: pathlib.Path, seed: int) -> None:
    """A network trained on the pseudo-labels of `base`'s first selection as if they were labels,
    for the student's images, then on the labels alone at a tenth of the learning rate.
    """
    selected, where = root / "base" / "iteration_1" / "selection", root / PRETRAINED
    config = ablations.get_config(f"set={which},role=student")
    config.data.split_seed = seed
    pairs = _write_pairs(config, selected, where / "pairs")
    name, optim = f"configs/ablations.py:set={which},role=teacher", config.optim
    steps = config.train.epochs * _labelled(config) / config.train.batch_size
    batch = round(config.train.batch_size * config.train.unlabelled_ratio)
    epochs = steps * batch / len(Selection(selected).index)
    share = epochs / config.train.epochs
    pretrain = [
        f"--config.data.labelled=parquet:{pairs}",
        f"--config.train.batch_size={batch}",
        f"--config.train.epochs={epochs}",
        f"--config.optim.warmup_epochs={optim.warmup_epochs * share}",
        f"--config.optim.decay_epochs={optim.decay_epochs * share}",
    ]
    runs.run("train", where / "first", name, *runs.of_seed(seed), *pretrain)
    finetune = [
        f"--config.train.init={where}/first",
        f"--config.train.epochs={FINETUNE_SHARE * config.train.epochs}",
        f"--config.optim.learning_rate_per_256={optim.learning_rate_per_256 / 10}",
        "--config.optim.warmup_epochs=0.0",
    ]
    runs.run("train", where / "then", name, *runs.of_seed(seed), *finetune)
    evaluated = f"--config.evaluate.checkpoint={where}/then"
    runs.run("evaluate", where, name, *runs.of_seed(seed), evaluated)


def _labelled(config) -> int:
    return len(open_lib.open_from_config(config, "labelled"))


def _write_pairs(config, selected: pathlib.Path, directory: pathlib.Path) -> pathlib.Path:
    """The images of a selection with their pseudo-labels as a Parquet file."""
    path, selection = directory / "pairs.parquet", Selection(selected)
    source = open_lib.open_from_config(config, "unlabelled")
    pixels = [decoding.decode(source[int(index)]["image"]) for index in selection.index]
    images = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in pixels]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "class_names.txt").write_text("\n".join(source.class_names) + "\n")
    pq.write_table(pa.table({"image": images, "label": selection.label[:]}), path, row_group_size=8)
    return path


def scores(root: pathlib.Path) -> dict[str, float]:
    """Top-1 in percent of what has been run of a seed, by name."""
    places = {
        "teacher": root / "base" / "iteration_0",
        **{
            f"student {k}": root / "base" / f"iteration_{k}"
            for k in range(1, ablations.ITERATIONS + 1)
        },
        **{name: root / name / "iteration_1" for name in ablations.ABLATIONS if name != "base"},
        PRETRAINED: root / PRETRAINED,
    }
    return {name: runs.top1(p) for name, p in places.items() if (p / "eval.json").exists()}


def report(which: str, found: dict[int, dict[str, float]]) -> str:
    """The tables, in Markdown."""
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    columns = {name: [one[name] for one in found.values() if name in one] for name in names}
    networks = [[name, runs.mean_and_spread(c), len(c)] for name, c in columns.items()]
    verdicts = []
    for finding in FINDINGS:
        both = [one for one in found.values() if {finding.variant, finding.against} <= one.keys()]
        if both:
            values, against = (
                [one[name] for one in both] for name in (finding.variant, finding.against)
            )
            difference = runs.difference(values, against)
            verdicts.append(
                [
                    finding.paper,
                    f"{finding.variant} less {finding.against}",
                    f"{statistics.mean(values):.2f} less {statistics.mean(against):.2f}",
                    runs.interval(difference),
                    verdict(difference, finding.sign),
                ]
            )
    seeds = ", ".join(map(str, found))
    return "\n\n".join(
        [
            f"{which}, seeds {seeds}: top-1 in percent, mean and standard deviation over seeds.",
            runs.table(["network", "top-1", "seeds"], networks),
            "Differences in points, paired by seed, with their 95 % intervals.",
            runs.table(["the paper", "compared", "top-1", "difference", "ours"], verdicts),
        ]
    )


def verdict(difference: tuple[float, float, float], sign: int) -> str:
    """`agrees`, `disagrees`, or `undecided` where the interval does not carry either."""
    _, low, high = difference
    if sign < 0:
        low, high = -high, -low
    if sign:
        return "agrees" if low > 0 else "disagrees" if high < 0 else "undecided"
    if low > -EQUAL and high < EQUAL:
        return "agrees"
    return "disagrees" if low > EQUAL or high < -EQUAL else "undecided"


if __name__ == "__main__":
    main()
