"""Cleaning: documents that are removed before anything is scored.

::

    duplicates.py  find_repeats: exact duplicates, by a shuffle of hashes
    dropped.py     Dropped, Quarantine: files of the documents that were not kept
"""
