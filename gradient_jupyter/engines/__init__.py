"""Where tasks run. ``base`` is the contract; every other module or folder is one engine.

Engines are dumb and stateless: they start what they are told to start, say what they see, and never
retry. Queueing, retries, projects and users live above them.
"""
