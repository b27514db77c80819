"""Input files to records.

::

    inputs.py    Input: the files that a recipe names
    digests.py   hash_inputs: a hash of their bytes
    hub.py       Hugging Face datasets
    splits.py    Split, InputPiece: parts of files, each the work of a task
    spans.py     Span: the part of a file that a piece is
    frames.py    the frames of a zstd file
    pieces.py    a compressed stream cut into files of lines
    streams.py   decompressed bytes
    readers.py   Reader: the format of a file, by the ending of its name
    lines.py     JSON lines and plain text
    tables.py    Parquet, Arrow and datasets
    records.py   Record, Bad: what readers yield
"""
