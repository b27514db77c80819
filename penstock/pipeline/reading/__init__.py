"""Input files to records.

::

    inputs.py    Input: the files that a recipe names; hash_inputs: a hash of their bytes
    splits.py    Split, InputPiece: parts of files, each the work of a task
    streams.py   decompressed bytes; the frames of a zstd file; a stream cut into files of lines
    readers.py   Reader: the format of a file, by the ending of its name
    lines.py     JSON lines and plain text
    tables.py    Parquet, Arrow and datasets
    records.py   Span: what readers get; Record, Bad: what they yield
"""
