"""The name that :class:`penstock.resources.Resources` had in Penstock 0.1, for plug-ins."""

from penstock.resources import Resources as Needs

__all__ = ["Needs"]
