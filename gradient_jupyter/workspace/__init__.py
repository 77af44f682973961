"""From a directory to its copy somewhere else: ignore rules, manifest, missing blobs, snapshot,
materialised tree.

The client scans and packs; the server checks, unpacks, stores and materialises. Both use this room, so
it knows neither HTTP nor a database nor who owns what, and it imports nothing of the server. Every path
that a user named is opened through ``inside``; every byte that is sent or stored is verified by digest.
"""
