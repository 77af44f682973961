from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradient_jupyter.resources.job import PHASES, TRANSITIONS, State

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("state", State)
def test_the_table_of_states_is_the_one_that_is_enforced(state):
    after = ", ".join(sorted(TRANSITIONS[state])) or "(final)"
    row = f"| {state} | {', '.join(PHASES[state])} | {after} |"
    assert row in (ROOT / "docs" / "jobs.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_between_the_pages_is_broken(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} points to {target}"
