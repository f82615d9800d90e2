"""A support vector machine on gradients as a teacher, through a CSV file, on Fashion-MNIST.

python -m benchmarks.given_teacher [--seeds=3] [--workdir=runs/given_teacher]

20 labels a class; the teacher's and its student's top-1 on the 10,000 test images, of each seed.
"""

import argparse
import csv
import pathlib

import numpy as np
from sklearn import calibration, pipeline, preprocessing, svm

from configs import fashion
from examples.teacher_sklearn import gradients
from ns_jax.data import open as open_lib
from ns_jax.programs import selftrain


def features(source):
    """Keys, and `[N, F]`."""
    examples = [source[index] for index in range(len(source))]
    found = np.stack([gradients(example["image"][..., 0]) for example in examples])
    return [example["key"] for example in examples], found


def write(config, path: pathlib.Path) -> None:
    """The machine's predictions of the pool and of the test images."""
    few = open_lib.open_from_config(config, "labelled")
    machine = pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC(C=10))
    model = calibration.CalibratedClassifierCV(machine, cv=5, ensemble=False)
    model.fit(features(few)[1], few.labels)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", *(few.class_names[c] for c in model.classes_)])
        for which in ("unlabelled", "test"):
            keys, found = features(open_lib.open_from_config(config, which))
            writer.writerows(np.column_stack([keys, model.predict_proba(found)]).tolist())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/given_teacher"))
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    print("| seed | teacher | its labels | student |\n|---|---|---|---|")
    for seed in range(arguments.seeds):
        config = fashion.get_config()
        config.seed = config.data.split_seed = seed
        config.selftrain.iterations = 1
        path = arguments.workdir / f"predictions-{seed}.csv"
        if not path.exists():
            write(config, path)
        config.selftrain.teacher = str(path)
        teacher, student = selftrain.run(config, arguments.workdir / str(seed))
        scores = [found["evaluation"]["top1"] for found in (teacher, student)]
        right = student["labels"]["accuracy"]
        print(f"| {seed} | {scores[0]:.2%} | {right:.2%} | {scores[1]:.2%} |", flush=True)


if __name__ == "__main__":
    main()
