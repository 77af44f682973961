from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.resources.snapshot import EMPTY_TREE, File, Link, Manifest, check_link, check_path

entries = st.lists(
    st.one_of(
        st.builds(
            File,
            path=st.text(min_size=1, max_size=8),
            size=st.integers(0, 10),
            digest=st.just("a" * 64),
            executable=st.booleans(),
        ),
        st.builds(Link, path=st.text(min_size=1, max_size=8), target=st.text(min_size=1, max_size=8)),
    ),
    unique_by=lambda entry: entry.path,
)


@given(entries, st.randoms())
def test_the_digest_depends_on_the_content_and_not_on_the_order(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert Manifest(entries=tuple(found)).digest() == Manifest(entries=tuple(shuffled)).digest()


@given(entries)
def test_the_canonical_form_reads_back_as_the_same_manifest(found):
    manifest = Manifest(entries=tuple(sorted(found, key=lambda entry: entry.path)))
    back = msgspec.json.decode(b'{"entries":' + manifest.canonical() + b"}", type=Manifest)
    assert back == manifest


def test_the_empty_tree_is_the_digest_of_no_entries():
    assert Manifest(entries=()).digest() == EMPTY_TREE


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "..", "a/../b", "a//b", "a/./b", "a/", "", "a\x00b", "a/" + "x" * 256, "\udcff"]
)
def test_a_path_that_leaves_or_confuses_is_named(path):
    assert check_path(path)


@pytest.mark.parametrize("path", ["a", "a/b", "...", "a..b", "ü/日本", "-rf", "a b", "$(x)", "a\\b"])
def test_a_strange_but_honest_path_is_fine(path):
    assert check_path(path) is None


@pytest.mark.parametrize(
    ("path", "target", "fine"),
    [
        ("a", "b", True),
        ("d/a", "../b", True),
        ("d/a", "../../b", False),
        ("a", "..", False),
        ("a", "/etc", False),
        ("d/e/a", "x/../../../y", True),
        ("d/a", "x/../../../y", False),
        ("a", "b\x00", False),
    ],
)
def test_a_link_stays_inside(path, target, fine):
    assert (check_link(path, target) is None) is fine
