"""The parts of the columns stage.

::

    models.py      Column, Models: fitted selectors and encoders; make_embeddings: shared vectors
    documents.py   score_documents: the pass of scorers
    sets.py        score_sets: the shuffle of set selectors
"""
