"""Documents to more, or cleaner, documents: prompts out, answers journalled, a corpus back."""
