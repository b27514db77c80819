"""The parts of a cut: quotas, orders, the search for cutoffs, ranks."""
