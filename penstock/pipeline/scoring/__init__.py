"""The parts of the columns stage.

::

    answered.py    score_answers: scores by answers of a language model
    means.py       score_means: means of a column by source or by length
    models.py      Column, Models: fitted selectors and encoders; make_embeddings: shared vectors
    parts.py       fill_parts: slow work on units, in parts
    sets.py        score_sets: the shuffle of set selectors
"""
