"""Text classifiers that several selectors train or load."""
