"""Evaluation: of a model in training, of a saved model, and by document of the training data.

::

    RunEvaluator                during a run and at its end            run_evaluator.py
      ├─ evaluate               evaluations -> Scores                  evaluator.py
      │    ├─ score_texts       texts -> bits per byte                 evaluator.py
      │    ├─ score_choices     questions -> accuracy                  choices.py
      │    └─ window_reader     windows of tokens -> nats              run_evaluator.py
      └─ write_document_losses  shards -> nats of every document       documents.py
"""
