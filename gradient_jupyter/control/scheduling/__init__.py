"""Who gets a machine, and when: the queue in memory, whose turn it is, the claim in the rows, and what those
who wait are told."""
