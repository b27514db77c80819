"""Cleaning: documents that are removed before anything is scored.

::

    duplicates.py  find_repeats: exact duplicates, by a shuffle of hashes
    minhash/       Signatures: hashes that near-duplicates share, a text column
    dropped.py     Dropped, Quarantine: files of the documents that were not kept
"""
