"""Evaluation: of a model in training, of a saved model, and by document of the training data.

::

    RunEvaluator                during a run and at its end            run_evaluator.py
      ├─ evaluate               evaluations -> Scores                  evaluator.py
      │    ├─ score_texts       texts -> bits per byte                 texts.py
      │    ├─ score_choices     questions -> accuracy                  choices.py
      │    └─ WindowReader      windows of tokens -> nats              reading.py
      └─ write_document_losses  shards -> nats of every document       documents.py
"""
