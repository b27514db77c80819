"""Input files to records.

::

    inputs.py      Input: the files that a recipe names; hash_inputs: a hash of their bytes
    splits.py      Split, InputPiece: parts of files, each the work of a task
    streams.py     decompressed bytes; the frames of a zstd file; a stream cut into files of lines
    readers.py     Reader: the format of a file, by the ending of its name
    json_lines.py  JSON lines: bytes to batches
    scanning.py    a compiled loop that finds the text of each line
    lines.py       lines, from any byte on; plain text
    tables.py      Parquet, Arrow and datasets
    batches.py     ParsedBatch: what readers yield
    records.py     Span: what readers get; Record, Bad: single records
"""
