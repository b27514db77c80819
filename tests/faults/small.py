"""``penstock`` with units small enough that little text has many: ``python -m tests.faults.small``.

The recipe has no key for the size of a unit, so the size that ``curate`` takes for granted is
given here; nothing else differs from the command.
"""

from __future__ import annotations

import functools
import os

from penstock.jobs import curate
from penstock.jobs.cli import main

if __name__ == "__main__":
    curate.make_corpus = functools.partial(
        curate.make_corpus, unit_bytes=int(os.environ["PENSTOCK_TEST_UNIT_BYTES"])
    )
    main(prog_name="penstock")
