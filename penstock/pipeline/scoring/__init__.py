"""The parts of the columns stage.

::

    answered.py    score_answers: scores by answers of a language model
    changes.py     changes_of: which code and files of a scorer changed since it scored last
    means.py       score_means: means of a column by source or by length
    models.py      Column, Models: fitted selectors and encoders; make_embeddings: shared vectors
    partitions.py  PartitionPlan: documents sorted by partition, as a set selector receives them
    parts.py       fill_parts: slow work on units, in parts
    rescoring.py   forget_scores: delete columns and all that was made of them
    scales.py      order statistics of a pool; find_scale: the robust deviation of a column
    sets.py        score_sets: the shuffle of set selectors
    thinning.py    thin: documents that a set selector leaves out before it scores the others
"""
