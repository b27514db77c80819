"""Steps whose samples do not count the same: losses gathered, weighed, trained on, journalled."""
