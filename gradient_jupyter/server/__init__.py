"""The program: configuration, start, stop. ``python -m gradient_jupyter.server`` is solo's server.

It is never inside a user's notebook server, so jobs outlive the browser, the notebook and the culler.
"""
