"""``python -m gradient_jupyter.server``."""

from gradient_jupyter.server.program import GradientServer

if __name__ == "__main__":
    GradientServer.launch_instance()
