"""The local engine: tasks are processes of this host.

Each has a supervisor (``supervisor``, made by ``forkserver``) that outlives the server; ``private`` is what
the two write for each other, ``world`` the paths and variables a command finds, ``engine`` the contract's
face of it all.
"""

from gradient_jupyter.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
