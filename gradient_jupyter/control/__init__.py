"""What should happen: submit, queue, place, reconcile, collect.

Callers change what a row should become (its target); one reconciler closes the difference between that
and what the engine shows (``plan`` decides, ``reconcile`` acts). Nothing here loads a model, unpickles,
or runs a user's code.
"""
