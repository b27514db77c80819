"""Compiled loops over Arrow buffers and arrays that several selectors share."""
