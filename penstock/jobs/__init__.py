"""Jobs: the Python API, the command line, Ray jobs, comparisons and reports.

::

    cli                    commands, options, exit status              cli.py, options.py,
      │                                                                looking_commands.py,
      │                                                                document_commands.py,
      │                                                                job_commands.py,
      │                                                                console.py, terminal.py,
      │                                                                os_errors.py,
      │                                                                heartbeat.py,
      │                                                                progress_lines.py
      └─ api               penstock.curate, train, compare, open, ...  api.py, progress.py,
           │               penstock.why, sample, diff                  looking.py
           ├─ Plan         a recipe's parts for its stages, checked    plan.py, build.py,
           │                                                           evaluation_examples.py
           ├─ clean        a dry run of the rules                      clean.py
           ├─ score        a scorer on a sample, in this process       score.py
           ├─ curate       corpus -> columns -> cut -> shards          curate.py,
           │                                                           prerequisites.py,
           │                                                           remaking.py,
           │                                                           stage_lines.py,
           │                                                           column_warnings.py,
           │                                                           rank_correlation.py
           │    └─ climb, find_weights   models that a selector        selector_training.py,
           │                             needs before its fit          held_out.py
           │    └─ DocumentTable   the documents of a pool: Arrow,  documents.py
           │                       pandas, DuckDB, Ray Data
           ├─ export       what a cut takes, for other trainers        export/
           ├─ train        shards -> a run                             train.py
           └─ compare      arms at equal tokens                        compare.py, plots.py
                └─ Comparison  verdicts, token multiplier, rungs       comparison/
    check, init            a recipe and a sample of its inputs         checking/
    report                 a page of HTML on a cut                     report/
    browse                 changes of a recipe, previewed              browse/,
                                                                       browse_commands.py
    why                    the record of one document                  why.py, wanted.py,
                                                                       origins.py, reasons.py,
                                                                       nearest.py, grades.py,
                                                                       training_losses.py,
                                                                       compared_values.py,
                                                                       unscored.py
    diff                   what came in and went out, and why          diff.py, sides.py, causes.py,
                                                                       joined_fates.py,
                                                                       changed_keys.py,
                                                                       printed_diff.py
    sample                 documents drawn from any place              sample.py, edge.py
      └─ iter_fates        the fates of all documents, by unit         unit_fates.py
    ls                     the artefacts of a directory or a recipe    listing.py
    rm --unused            artefacts that no named recipe reaches      unused.py, dependencies.py
    submit, logs           a recipe as a Ray Job, and its log          submit.py, staging.py
      └─ status, stop      jobs of a cluster                           job_states.py,
                                                                       job_server.py, job_logs.py
    demo                   the main job on text of this machine        demo/
"""
