"""tfds:NAME[/CONFIG]:SPLIT: data sets of TensorFlow Datasets, read without TensorFlow.

They are prepared once in a format with random access, below TFDS_DATA_DIR (~/tensorflow_datasets):

    pip install tensorflow-datasets tensorflow && tfds build NAME --file_format=array_record
"""

import dataclasses
import re
from typing import Any

from ns_jax.data import signatures as signatures_lib
from ns_jax.data.formats import array_record
from ns_jax.data.source import Record, Source, as_text, digest, unlabelled
from ns_jax.errors import InputError, MissingFileError

KEYS = ("file_name", "id", "key")  # names of features that name an image


@dataclasses.dataclass(frozen=True)
class _Examples:
    data: Any  # TFDS's data source; it pickles without its open files
    split: str
    image: str
    label: str | None
    key: str | None  # names of features

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Record:
        example, key = array_record.read(self.data, index), f"{self.split}-{index:08d}"
        if example is None or example[self.image] is None:  # what is left of a file that was cut
            return b"", -1, key
        label = int(example[self.label]) if self.label else -1
        if self.key:
            key = example[self.key]
            key = as_text(key) if isinstance(key, bytes) else str(key)
        return example[self.image], label, key


def open_source(rest: str, column: str = "label") -> Source:
    """A split (`train`, `train[:10%]`, ...) of a data set that has been prepared.

    The feature `column` holds the labels.

    Raises InputError for an unknown name or split, or features without an image; FileNotFoundError,
    with the command that prepares it, for a data set that is not there.
    """
    import tensorflow_datasets as tfds  # a second to import

    match = re.fullmatch(r"([^:]+(?::[\d.*]+)?):(\D.*)", rest)  # the name may end in a version
    if not match:
        raise InputError(f"tfds:{rest} names no split; write tfds:NAME:SPLIT, as tfds:{rest}:train")
    name, split = match.groups()
    directory = str(tfds.core.constants.DATA_DIR)
    if directory.startswith("s3://"):
        raise InputError(
            f"TFDS_DATA_DIR is {directory}: TensorFlow Datasets reads records from gs:// but not "
            "from s3://; mount the bucket and name its directory"
        )
    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, tfds.core.registered.DatasetNotFoundError):
        raise InputError(
            f"TensorFlow Datasets knows no {name!r}: tensorflow.org/datasets"
        ) from None
    remedy = f"tfds build {name} --file_format=array_record"
    if not builder.data_path.exists():
        raise MissingFileError(
            f"tfds:{rest} is not in {builder.data_path} (TFDS_DATA_DIR names another directory); "
            f"where TensorFlow is installed, run: {remedy}"
        )
    try:
        data = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError:
        raise InputError(
            f"{builder.data_path} is in the format {builder.info.file_format.value}, which has no "
            f"random access; run: {remedy}"
        ) from None
    features = builder.info.features
    if "image" not in features or not isinstance(features["image"], tfds.features.Image):
        raise InputError(f"tfds:{name} has no feature `image`, only {', '.join(features)}")
    labelled = column in features and isinstance(features[column], tfds.features.ClassLabel)
    instructions = builder.info.splits[split].file_instructions
    paths = [instruction.filename for instruction in instructions]
    slices = [f"{i.skip} {i.take}" for i in instructions]
    return Source(
        name=f"tfds:{rest}",
        class_names=tuple(features[column].names) if labelled else (),
        fingerprint=digest(builder.info.full_name, *slices, *signatures_lib.of(paths, shards=True)),
        records=_Examples(
            data,
            split,
            image="image",
            label=column if labelled else None,
            key=next((name for name in KEYS if name in features), None),
        ),
        labels=None if labelled else unlabelled(len(data)),
        no_labels=""
        if labelled
        else f"no ClassLabel `{column}` is among its features {', '.join(features)} "
        "(data.label_column names another)",
    )
