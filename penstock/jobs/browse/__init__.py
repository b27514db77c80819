"""Preview changes of a finished recipe in a browser: what each would take and drop, at once.

::

    columns.py     DocumentColumns: ids, sources, scores, tokens of every document, in memory
    exclusions.py  CleanColumns: first reasons under another condition or other thresholds
    cutting.py     cut_in_memory: the engine's cut of a budget over these columns
    changes.py     a change of a recipe: its keys, as YAML and as options --set
    preview.py     BrowsedRecipe: a change -> Previewed, with the counts of Preview
    controls.py    what the page can change: values and limits, the numbers of a condition
    views.py       DocumentViews: histograms, lists and searches, by DuckDB
    guard.py       Guard: token, Host and Origin of a request
    server.py      BrowseServer: the page and what it asks, by Starlette and uvicorn
    job.py         open_browse: a recipe -> its server
    page.*         the page: HTML, style, script; charts are SVG

Verdicts and cuts are expressions over columns, so nothing is scored again, and nothing is written.
An answer that only ``curate`` can give says so (:attr:`~.preview.Preview.needs`).
"""
