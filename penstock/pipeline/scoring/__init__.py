"""The parts of a column: what was fitted, the vectors of the pool, the passes that score."""
