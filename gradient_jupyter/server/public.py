"""The datasets that an administrator provides, checked before anything is served."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradient_jupyter.resources.dataset import NAME_PATTERN


def public_datasets(given: Mapping[Any, Any], data_root: Path) -> dict[str, Path]:
    """Names and directories, links in them resolved. ``ValueError`` with a sentence where one cannot be shown
    to jobs: above all none that holds what the server keeps, or lies in it."""
    found: dict[str, Path] = {}
    root = data_root.resolve()
    for name, place in given.items():
        if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(
                f"{name!r} is no name of a dataset: up to 100 letters, digits, '.', '_' and '-', the first "
                "of them a letter or digit."
            )
        if not isinstance(place, str) or not place.startswith("/"):
            raise ValueError(f"{name}: {place!r} is not an absolute path.")
        try:
            path = Path(place).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{name}: {place!r} cannot be used: {why}.") from None
        if not path.is_dir():
            raise ValueError(f"{name}: {place!r} is no directory.")
        if path.is_relative_to(root) or root.is_relative_to(path):
            raise ValueError(f"{name}: {place!r} and the data root {root} lie one in the other.")
        found[name] = path
    return found
