"""Who asks, what they may, whom they let in, and the record of it."""
