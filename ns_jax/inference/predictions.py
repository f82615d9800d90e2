"""What a network said of each image that it was scored on, beside its `eval.json`."""

import io
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ns_jax import files
from ns_jax.errors import DamagedError
from ns_jax.inference.scoring import Predictions

NAME = "predictions.parquet"
DTYPES = {
    "index": np.int64,  # of the image in its source
    "label": np.int32,
    "predicted": np.int32,
    "confidence": np.float32,
}


def write(directory: pathlib.Path, found: Predictions) -> None:
    """Writes a row for each image that has a label, in the order of the source. Raises OSError."""
    known = found.labels >= 0
    columns = (found.index, found.labels, found.classes[:, 0], found.probs[:, 0])
    arrays = {
        name: pa.array(column[known].astype(kind))
        for (name, kind), column in zip(DTYPES.items(), columns, strict=True)
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer, compression="zstd")
    files.write(os.fspath(directory / NAME), buffer.getvalue())


def read(directory: pathlib.Path) -> dict[str, np.ndarray] | None:
    """The columns `[N]` by name, of `DTYPES`; None of an evaluation that wrote none.

    Raises DamagedError.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))  # pyarrow has a gs:// of its own
        return {name: table.column(name).to_numpy().astype(kind) for name, kind in DTYPES.items()}
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DamagedError(
            f"{path} is damaged ({error}); remove it and eval.json beside it, and evaluate again"
        ) from None
