"""The parts of the columns stage.

::

    models.py      Column, Models: fitted selectors and encoders
    embeddings.py  make_embeddings: vectors shared by selectors
    documents.py   score_documents: the pass of scorers
    sets.py        score_sets: the shuffle of set selectors
    scores.py      read_scores, write_scores: the files of a column
"""
