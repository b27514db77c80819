"""The parts of the cut stage.

::

    budget.py      Quota: the tokens of each share of the budget
    ordering.py    OrderedUnit: score, tie and group of each document of a unit
    best.py        find_best: the documents that the draw `uniform` draws from
    places.py      place_of: the place of one document by score, computed on demand
    radix.py       Cutoff: the point where a quota is crossed, by radix selection
    search.py      search_budget: plan by bytes, decide by tokens of the Candidates
    ranks.py       rank_of, first_ranked: ranks computed from a finished cut
"""
