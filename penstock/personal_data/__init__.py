"""Personal data and secrets in texts: counted as columns, and masked.

::

    kinds.py        the kinds, their definitions and placeholders
    columns.py      PersonalData, count_personal_data: texts -> uint32 counts
    masking.py      mask: texts -> texts with placeholders
    scanning.py     find_items: one text -> the items in it, one pass     (compiled, as the rest)
    ├─ e_mails.py       addresses of e-mail
    ├─ ip_addresses.py  public addresses, versions 4 and 6
    ├─ numbers.py       cards, IBANs and telephone numbers
    ├─ secret_keys.py   keys, tokens and private keys by their prefix
    └─ tables.py        classes of bytes, lengths of IBANs, calling codes, prefixes

Precision before recall: every kind has a form or a checksum that ordinary text seldom has. Names,
addresses and numbers without such a form are not found. Both counting and masking read UTF-8 once,
and hang on the text alone.
"""

from penstock.personal_data.columns import PersonalData, count_personal_data
from penstock.personal_data.kinds import KINDS, Kind
from penstock.personal_data.masking import mask

__all__ = ["KINDS", "Kind", "PersonalData", "count_personal_data", "mask"]
