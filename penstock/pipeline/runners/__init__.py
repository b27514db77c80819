"""Processes here, tasks and actors on Ray, and the one policy for what goes wrong in them."""
