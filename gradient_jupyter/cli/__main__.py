"""``python -m gradient_jupyter.cli``."""

from gradient_jupyter.cli import main

main()
