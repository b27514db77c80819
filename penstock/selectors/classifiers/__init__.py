"""fastText classifiers: trained, chosen among trials, collapsed, and scored.

::

    train_classifier      a grid of trials on labelled texts            classifier.py
      └─ find_rows, train one fastText training, the same bytes always  fasttext_training.py
           └─ CollapsedFastText   one float a row, p(positive)          fasttext.py
                └─ FastTextPanel  several classifiers, texts read once  fasttext_panel.py
    BatchScorer           several scorers of one batch                  fasttext_panel.py
    Texts, shrink         what scorers compute of a batch's texts       classifier.py
"""
