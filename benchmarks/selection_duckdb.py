"""The other side of benchmarks/selection.py: one DuckDB query with windows over the shards.

python -m benchmarks.selection_duckdb LABELS DIRECTORY THRESHOLD PER_CLASS
"""

import json
import pathlib
import sys

import duckdb
import pyarrow as pa

ROWS_AT_ONCE = 1_000_000
SELECT = """
WITH candidates AS (
    SELECT index, label, confidence, classes, probs,
           row_number() OVER (PARTITION BY label ORDER BY confidence DESC, index) AS rank,
           count(*) OVER (PARTITION BY label) AS candidates
    FROM read_parquet($shards)
    WHERE status = 'ok' AND confidence > $threshold::FLOAT
), kept AS (
    SELECT *, $per_class // least(candidates, $per_class)
              + (rank <= $per_class % least(candidates, $per_class))::BIGINT AS copies
    FROM candidates
    WHERE rank <= $per_class
)
SELECT index, label, confidence, classes, probs
FROM (SELECT *, unnest(range(copies)) AS copy FROM kept)
ORDER BY index, copy
"""


def main(where: str, directory: str, threshold: str, per_class: str) -> None:
    target = pathlib.Path(directory)
    target.mkdir(parents=True)
    # Without a limit it takes four fifths of the machine, and of 300 million rows all of that.
    spill = {"temp_directory": str(target / "spilled"), "memory_limit": "7GB"}
    database = duckdb.connect(config=spill)
    values = {
        "shards": sorted(map(str, pathlib.Path(where).glob("*.parquet"))),
        "threshold": float(threshold),
        "per_class": int(per_class),
    }
    reader = database.execute(SELECT, values).to_arrow_reader(ROWS_AT_ONCE)
    rows = 0
    with pa.ipc.new_file(target / "selection.arrow", reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += len(batch)
    (target / "rows.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
