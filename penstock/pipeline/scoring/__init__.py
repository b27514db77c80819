"""The parts of the columns stage.

::

    answered.py    score_answers: scores by answers of a language model
    means.py       score_means: means of a column by source or by length
    models.py      Column, Models: fitted selectors and encoders; make_embeddings: shared vectors
    parts.py       fill_parts: slow work on units, in parts
    scales.py      find_scale: the robust standard deviation of a column
    sets.py        score_sets: the shuffle of set selectors
"""
