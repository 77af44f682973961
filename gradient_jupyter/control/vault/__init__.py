"""Secrets: encrypted under keys that lie outside the data root, and opened when a run starts."""
