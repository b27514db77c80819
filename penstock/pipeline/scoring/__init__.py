"""The parts of the columns stage.

::

    models.py      Column, Models: fitted selectors and encoders; make_embeddings: shared vectors
    sets.py        score_sets: the shuffle of set selectors
"""
