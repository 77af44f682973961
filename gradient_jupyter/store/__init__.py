"""Tables, migrations and queries: what the control plane knows, on disk.

SQL runs on one writer thread, which commits many small transactions as one, and on a few reader
threads beside it. Queries are plain functions over a connection, one module per noun; what is
allowed and what should happen is decided on the floor above.
"""
