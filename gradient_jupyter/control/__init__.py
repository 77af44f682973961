"""What should happen: a room for each thing that is looked after, and ``plane``, which puts them together.

Callers change what a row should become (its target); one reconciler closes the difference between that
and what the engine shows (``running.plan`` decides, ``running.reconcile`` acts). Nothing here loads a model,
unpickles, or runs a user's code.
"""
