"""A job on its machine: one reconciler makes what is so become what was asked for, attempt by attempt, until
its end is written down. ``plan`` decides, ``reconcile`` acts."""
