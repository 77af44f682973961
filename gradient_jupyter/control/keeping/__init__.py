"""Keeping house: what nothing refers to is cleared away, what is stored is checked, how it all does is
told."""
