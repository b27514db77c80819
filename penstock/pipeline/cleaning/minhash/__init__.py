"""MinHash: signatures of texts, equal for texts that share most of their word n-grams.

::

    signatures.py    Signatures: a text column of band hashes, and the sets of n-grams behind it
    verification.py  join_similar: true similarity of documents that agree in a band
    threshold.py     choose_banding: bands and rows for a threshold of similarity
    folding.py       folded: the character as which each character is compared
    kernels.py       compiled loops: words, n-grams, minima, hashes of bands

Neither Ray nor storage.
"""
