"""``penstock export``: what a cut takes, in the files of other trainers and libraries.

::

    export           a curated recipe -> files, a card, a manifest     job.py
      ├─ Destination   an empty directory, or an unfinished export     destination.py
      ├─ FORMATS       name -> tasks, their function, last files       formats.py
      │    ├─ texts      documents -> Parquet, JSON lines, datasets    texts.py
      │    ├─ tokens     shards -> documents of token ids              token_streams.py
      │    ├─ arrays     -> .bin and .idx, .npy and .csv.gz            arrays.py
      │    └─ sequences  shards -> MDS                                 mds.py
      ├─ SourceFacts   licences and inputs of each source              sources.py
      ├─ token_facts    type of ids, end of text: tokens.json             ids.py
      └─ card          counts, sources, recipe: README.md              card.py

An export is an unfinished or finished artefact like those of the stages
(:mod:`penstock.artefact`): each file is written whole and then recorded, so that a killed export
goes on where it was, and its bytes are a function of the shards and the recipe.
"""

from __future__ import annotations

from penstock.jobs.export.formats import FORMATS
from penstock.jobs.export.job import Exported, export

__all__ = ["FORMATS", "Exported", "export"]
