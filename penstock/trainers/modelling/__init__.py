"""The model: how it is built, how it attends, and its loss."""
