"""The name that :mod:`penstock.hashing` had in Penstock 0.1, for plug-ins."""

from penstock.hashing import FNV_OFFSET, FNV_PRIME, avalanche, hash_ids, mix, uniform

__all__ = ["FNV_OFFSET", "FNV_PRIME", "avalanche", "hash_ids", "mix", "uniform"]
