"""Files to records: which files there are, what part of one is a task's, and what is in it."""
