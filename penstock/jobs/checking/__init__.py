"""``penstock check`` and ``penstock init``: a look at the inputs before any work starts.

Nothing here writes to a work directory, starts a runner or fits a selector. A bounded sample of the
inputs is read in this process, about 16 MiB of text, so a pool of any size takes seconds.

::

    check.py       check_recipe: every part of a recipe is built and compared with the sample
    sampling.py    sample_inputs: records from the beginnings of files; fields, sources, sizes
    conditions.py  what rules and `clean.where` find in the sample
    estimates.py   text, tokens, time, memory and disk of the whole, from the sample
    encodings.py   files in Unicode where an item names another encoding
    budgets.py     the budget against the pool, the training against the budget
    large_documents.py  documents that alone are a large part of the budget
    libraries.py   missing_libraries: extras and models that a part needs and that are not there
    plug_ins.py    users' own code that workers cannot get, and files that it does not reach
    findings.py    Finding: an error or a warning of a check
    guessing.py    which fields are the text, the id and the source
    init.py        init_recipe: a commented recipe for some files
    writing.py     the text of that recipe
    valid_part.py  what of a recipe with errors can be looked at
    printing.py    a check as lines and tables
"""
