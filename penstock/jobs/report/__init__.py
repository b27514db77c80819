"""The report: one page on a curated dataset, which opens offline.

::

    write_report             artefacts -> report.html              page.py
      ├─ count_pool          histograms by source, in one pass     counting.py
      ├─ selector_agreement  rank correlation, best tenths         selector_agreement.py
      ├─ document_flow       read -> taken, every loss named       flow.py
      ├─ count_copies        duplicates of each that stays         repeats.py
      ├─ first_taken, ...    documents to show                     excerpts.py
      ├─ judged_targets      verdicts and how they came about      comparison_figures.py
      ├─ curve_figures       losses and evaluations in training    curves.py
      ├─ *_figure            drawings in SVG                       figures.py, charts.py
      └─ the page            template, style, search and filters   report.html.jinja,
                                                                   report.css, report.js
"""
