"""``penstock`` with units of corpus so small that little text has many: no recipe key sets it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from penstock.jobs import cli
from penstock.pipeline.corpus import CorpusSettings
from penstock.recipe import Recipe


def main(arguments: Sequence[str], unit_bytes: int) -> None:
    """Run a command of Penstock; nothing but the size of a unit differs."""
    settings_of = CorpusSettings.of

    def small(recipe: Recipe) -> CorpusSettings:
        return settings_of(recipe, unit_bytes)

    CorpusSettings.of = small  # type: ignore[method-assign, assignment]
    sys.argv = ["penstock", *arguments]
    cli.main(list(arguments))


if __name__ == "__main__":
    main(sys.argv[1:], int(os.environ["PENSTOCK_TEST_UNIT_BYTES"]))
