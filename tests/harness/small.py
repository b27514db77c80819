"""``penstock`` with units of corpus so small that little text has many: no recipe key sets it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

from penstock.jobs import cli
from penstock.pipeline.corpus import CorpusSettings


def main(arguments: Sequence[str], unit_bytes: int) -> None:
    """Run a command of Penstock; nothing but the size of a unit differs."""
    CorpusSettings.of = functools.partial(  # type: ignore[method-assign]
        CorpusSettings.of, unit_bytes=unit_bytes
    )
    sys.argv = ["penstock", *arguments]
    cli.main(list(arguments))


if __name__ == "__main__":
    main(sys.argv[1:], int(os.environ["PENSTOCK_TEST_UNIT_BYTES"]))
