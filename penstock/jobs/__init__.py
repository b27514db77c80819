"""Jobs: the Python API, the command line, Ray jobs, comparisons and reports.

::

    cli                    commands, options, exit status              cli.py, console.py
      └─ api               penstock.curate, train, compare, open       api.py, progress.py
           ├─ Plan         a recipe's parts for its stages, checked    plan.py, build.py
           ├─ curate       corpus -> columns -> cut -> shards          curate.py
           │    ├─ ladder       models that PreSelect puts in order    ladder.py, held_out.py
           │    └─ refinement   cluster weights of kMQ                 refinement.py, held_out.py
           ├─ train        shards -> a run                             train.py
           └─ compare      arms at equal tokens, token multiplier      compare.py, arms.py, plot.py
    report                 a page of HTML on a cut                     report.py, curve.py
      ├─ excerpts          documents taken first, documents left       excerpts.py
      └─ report.html.jinja its template
    why                    the record of one document                  why.py, provenance.py
    ls                     the artefacts of a work directory           listing.py
    submit                 a recipe as a Ray Job                       submit.py, staging.py
    demo                   the main job on text of this machine        demo/
"""
