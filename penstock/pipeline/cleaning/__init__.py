"""Cleaning: documents that are removed before anything is scored.

::

    duplicates.py       find_repeats: exact duplicates, by a shuffle of hashes
    minhash/            Signatures: hashes that near-duplicates share, a text column
    overlaps/           Overlaps: n-grams that documents share with evaluation files, a text column
    near_duplicates.py  fill_components: documents that are alike, by a shuffle of such hashes
    components.py       unite, large_star, small_star: connected components of edges
    survivor_passes.py  fill_survivors: which of them stays, by a shuffle of components
    survivors.py        choose_survivors: the best that no other verdict excludes
    dropped.py          Dropped, Quarantine: files of the documents that were not kept
"""
