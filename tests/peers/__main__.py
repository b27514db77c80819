"""Export a small recipe in every format and compare what the formats' own libraries read of it.

    python -m tests.peers --peer-python .peers/bin/python --mds-python .peers-mds/bin/python

mosaicml-streaming and the other libraries need different versions of the same packages, so that it
has an environment of its own. Without ``--mds-python`` its format is not read.

The expected ids and texts are read from the shards and the corpus without the export. Each library
prints a line; the exit status is that of the readers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.jobs.curate import Curated
from penstock.jobs.export import FORMATS, export, formats
from penstock.pipeline.runner import LocalRunner
from tests.jobs.export.exported import curated_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="of an environment with the peers")
    parser.add_argument("--mds-python", help="of an environment with mosaicml-streaming")
    arguments = parser.parse_args()
    formats.TOKENS, formats.TEXT_BYTES = 1_000, 2_000  # several files of each format
    with tempfile.TemporaryDirectory(prefix="penstock-peers-") as place:
        curated = curated_of(Path(place), tokens=6_000, shares={"wiki": 0.3})
        for to in FORMATS:
            export(curated, to, f"{place}/{to}", LocalRunner(1))
        (Path(place) / "expected.json").write_text(json.dumps(_expected(curated)))
        readers = str(Path(__file__).with_name("readers.py"))
        statuses = [
            subprocess.run([python, readers, place, group], check=False).returncode
            for python, group in ((arguments.peer_python, "plain"), (arguments.mds_python, "mds"))
            if python is not None
        ]
    return max(statuses)


def _expected(curated: Curated) -> dict[str, object]:
    """Return the sequences, their documents, and the texts that the cut takes."""
    sequences, starts = [], []
    documents: list[list[int]] = []
    for record in curated.shards.named("shard-"):
        for row in pa.ipc.open_file(str(curated.shards.path / record.path)).read_all().to_pylist():
            sequences.append(row["tokens"])
            starts.append(row["doc_start"])
            ends = [*row["doc_start"][1:], len(row["tokens"])]
            for start, end, offset in zip(row["doc_start"], ends, row["doc_offset"]):
                if offset == 0:
                    documents.append([])
                documents[-1].extend(row["tokens"][start:end])
    texts = []
    for unit in curated.pool.units:
        rows = pq.read_table(unit.path(), columns=["id", "text"]).to_pylist()
        cut = pq.read_table(curated.cut.verified(curated.cut.files[unit.number]))
        texts += [[rows[row]["id"], rows[row]["text"]] for row in cut["row"].to_pylist()]
    return {"sequences": sequences, "starts": starts, "documents": documents, "texts": texts}


if __name__ == "__main__":
    sys.exit(main())
