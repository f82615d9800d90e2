"""A support vector machine on histograms of gradients as a teacher:
python examples/teacher_sklearn.py LABELLED POOL predictions.csv
"""

import csv
import pathlib
import sys

import cv2
import numpy as np
from sklearn import calibration, pipeline, preprocessing, svm


def gradients(image: np.ndarray) -> np.ndarray:
    down, right = np.gradient(cv2.resize(image, (32, 32)) / 1.0)
    direction = (np.arctan2(down, right) % np.pi / np.pi * 9).astype(int) % 9
    strength = np.hypot(down, right)[..., None] * (direction[..., None] == np.arange(9))
    cells = cv2.boxFilter(strength, -1, (8, 8))[4::4, 4::4]
    return (cells / (np.linalg.norm(cells, axis=-1, keepdims=True) + 1)).ravel()


def read(root: str) -> tuple[list[str], np.ndarray]:
    paths = sorted(p for p in pathlib.Path(root).rglob("*") if p.suffix in (".png", ".jpg"))
    features = [gradients(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths]
    return [path.relative_to(root).as_posix() for path in paths], np.stack(features)


def main(labelled: str, pool: str, target: str) -> None:
    machine = pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC(C=10))
    model = calibration.CalibratedClassifierCV(machine, cv=3, ensemble=False)
    paths, features = read(labelled)
    model.fit(features, [path.partition("/")[0] for path in paths])
    keys, features = read(pool)
    rows = np.column_stack([keys, model.predict_proba(features)])
    with open(target, "w", newline="") as file:
        csv.writer(file).writerows([["path", *model.classes_], *rows])


if __name__ == "__main__":
    main(*sys.argv[1:])
