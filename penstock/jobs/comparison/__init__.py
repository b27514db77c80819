"""Results of a comparison: metrics, differences with their errors, verdicts, and agreement.

::

    Comparison           arms at the recipe's size and its rungs    results.py
      ├─ ArmsAtSize      arms, differences, token multiplier        arms.py
      │    └─ Point      one arm at one budget, over all seeds      arms.py
      ├─ difference      paired terms -> Difference and its words   differences.py
      ├─ describe_need   multipliers and bounds in words                multipliers.py
      ├─ agreements      rungs -> agreement of the arms' order      agreement.py
      └─ caveats         limits of size, pool, seeds and mixture    caveats.py
    describe_runs        runs and tokens, told before they begin    announcing.py
    TimeEstimate         how long they take, by the first one       announcing.py
"""
