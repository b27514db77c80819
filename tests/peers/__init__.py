"""Exports, read by the libraries that they are for: ``make peers``.

::

    __main__.py    exports a small recipe in all formats, and starts the readers
    readers.py     runs in each of the peers' environments, without Penstock: reads and compares
"""
