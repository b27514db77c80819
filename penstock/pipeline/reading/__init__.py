"""Input files to records.

::

    finding.py     find_inputs: the files that a recipe names, each once
    walking.py     Walk: directories, patterns and links, on disks and in stores
    saved_datasets.py  the files of a dataset that `datasets` wrote
    left_out.py    names that are met and not read, by kind, in few words
    inputs.py      Input: a file and how to read it; hash_inputs: a hash of its bytes
    unchanged.py   HashedFile: a file is read as it was hashed, or refused
    splits.py      Split, InputPiece: parts of files, each the work of a task
    streams.py     decompressed bytes; a stream cut into files of lines
    frames.py      the frames of a zstd file
    gunzip.py      the members of a gzip file
    readers.py     Reader: the format of a file, by the ending of its name
    json_lines.py  JSON lines: bytes to batches
    arrays.py      elements of JSON arrays as lines
    scanning.py    a compiled loop that finds the text of each line
    lines.py       lines, from any byte on; plain text
    tables.py      Parquet and Arrow
    values.py      columns of any type as texts and as values that JSON has
    hugging_face.py  datasets of directories and of the hub, at one commit
    dataset_types.py  types of columns that a dataset declares: plain ones
    dataset_texts.py  texts of such a directory, bounded
    delimited.py   CSV and TSV
    markdown.py    Markdown
    warc.py        web archives: a file to records
    members.py     decompression past damaged gzip members
    web_pages.py   records of web archives to documents
    messages.py    HTTP bodies to text: encodings, charsets, digests
    html.py        HTML to text
    parse_cost.py  a compiled loop that finds pages which cost a parser too much
    batches.py     ParsedBatch: what readers yield
    records.py     Span: what readers get; Record, Bad: single records
"""
