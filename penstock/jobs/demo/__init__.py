"""The demo: the main job on text that every machine with Python has.

::

    prepare            a directory with a recipe and its text       gather.py
      └─ gather        the text, written and counted                gather.py
           ├─ Halves       the target: the standard library         library.py
           ├─ read_pool    the pool: the installed packages         packages.py
           └─ Piece        docstrings, comments, paragraphs         pieces.py
"""
