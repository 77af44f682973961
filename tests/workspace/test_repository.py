"""A repository's address: what is read is what is meant, or a sentence says why not."""

from __future__ import annotations

import re
import subprocess
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import check_path
from gradient_jupyter.workspace.repository import Repository, is_repository, parse, ref_problem

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "url", "ref", "subdirectory", "name"),
    [
        ("git+https://github.com/owner/repo", "https://github.com/owner/repo", "", "", "repo"),
        ("git+https://GitHub.com/o/repo.git@main", "https://github.com/o/repo.git", "main", "", "repo"),
        ("git+https://h.test/o/r@feature/x-1.2_3", "https://h.test/o/r", "feature/x-1.2_3", "", "r"),
        (f"git+https://h.test/o/r@{_COMMIT}", "https://h.test/o/r", _COMMIT, "", "r"),
        ("git+https://h.test:8443/r@v1#subdirectory=a/b", "https://h.test:8443/r", "v1", "a/b", "r"),
        ("git+https://h.test:443/r@v1#subdirectory=/a/", "https://h.test/r", "v1", "a", "r"),
        ("git+https://h.test/r#subdirectory=a%20b", "https://h.test/r", "", "a b", "r"),
        ("git+http://h.test/r", "http://h.test/r", "", "", "r"),
        ("git+http://h.test:80/r", "http://h.test/r", "", "", "r"),
        ("git+https://10.0.0.1/r", "https://10.0.0.1/r", "", "", "r"),
        ("git+https://[FD00:0::1]:1/r", "https://[fd00::1]:1/r", "", "", "r"),
        ("git+https://h.test/@scope/r", "https://h.test/@scope/r", "", "", "r"),
        ("git+https://h.test/a@b/r@c", "https://h.test/a@b/r", "c", "", "r"),
        ("git+https://h.test/~me/r%2B.git", "https://h.test/~me/r%2B.git", "", "", "r+"),
        ("git+https://h.test/r@refs/pull/5/head", "https://h.test/r", "refs/pull/5/head", "", "r"),
        ("git+https://h.test/o/r/", "https://h.test/o/r", "", "", "r"),
        ("GIT+https://h.test/r@HEAD", "https://h.test/r", "HEAD", "", "r"),
    ],
)  # fmt: skip
def test_an_address_in_its_parts(text, url, ref, subdirectory, name):
    found = parse(text)
    assert (found.url, found.ref, found.subdirectory, found.name) == (url, ref, subdirectory, name)
    assert parse(str(found)) == found
    assert is_repository(text)


def test_a_commit_is_one_in_any_case_and_only_in_full():
    assert parse(f"git+https://h.test/r@{_COMMIT.upper()}").commit == _COMMIT
    assert parse(f"git+https://h.test/r@{'ab' * 32}").commit == "ab" * 32
    assert parse(f"git+https://h.test/r@{_COMMIT[:12]}").commit == ""
    assert str(parse("git+https://h.test/r@main").at(_COMMIT)) == f"git+https://h.test/r@{_COMMIT}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("git+ssh://git@h.test/r", "over https"),
        ("git+https://token@h.test/r", "token"),
        ("git+https://user:hunter2@h.test/r", "would be stored"),
        ("git+https://h.test/r@-x", "'-x'"),
        ("git+https://h.test/r@a..b", "'a..b'"),
        ("git+https://h.test/r@a.lock", "a.lock"),
        ("git+https://h.test/r@a b", "characters"),
        ("git+https://h.test/r@", "''"),
        ("git+https://h.test/r@a^{commit}", "characters"),
        ("git+https://h.test/r@{u}", "'{u}'"),
        ("git+https://h.test/r@main:refs/heads/x", "characters"),
        ("git+https://h.test", "path"),
        ("git+https://h.test/", "path"),
        ("git+https://h.test/../r", "path"),
        ("git+https://h.test/%2e%2e/r", "path"),
        ("git+https://h.test//r", "path"),
        ("git+https://h.test/r?x=1", "'?'"),
        ("git+https://h.test/r#egg=x", "subdirectory=PATH"),
        ("git+https://h.test/r#subdirectory=../x", "'..'"),
        ("git+https://h.test/r#subdirectory=", "empty"),
        ("git+https://h.test/r#subdirectory=a&x=1", "subdirectory=PATH"),
        ("git+https://h.test/r#subdirectory=%ff", "UTF-8"),
        ("git+https://h.test/r#subdirectory=a%00b", "null"),
        ("git+https://h.test/r#subdirectory=a%0ab", "shown"),
        ("git+https://café.test/r", "xn--"),
        ("git+https://h.test/" + "r" * 3000, "2048"),
    ],
)
def test_what_is_wrong_is_said(text, says):
    with pytest.raises(InvalidRequest) as refused:
        parse(text)
    assert refused.value.code == "bad-repository"
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)


def _addresses() -> st.SearchStrategy[str]:
    """Text near enough to an address to get past the first checks."""
    odd = st.sampled_from(
        ["-", "@", ":", "/", "..", ".", "%", "%2e", "\\", "#", "?", "[", "]", "{", "^", "~", "a"]
    )
    part = st.lists(st.one_of(odd, st.text(max_size=3)), max_size=5).map("".join)
    return st.builds(
        "{}://{}/{}@{}#subdirectory={}".format,
        st.sampled_from(["git+https", "git+http", "git+ssh", "https"]), st.one_of(part, st.just("h.test")),
        st.one_of(part, st.just("r")), st.one_of(part, st.just("main")), st.one_of(part, st.just("d")),
    )  # fmt: skip


@given(st.one_of(st.text(), _addresses()))
@example("git+https://h.test/r@--upload-pack=x#subdirectory=d")
@settings(max_examples=500)
def test_whatever_is_accepted_means_one_thing_to_everybody(text):
    try:
        found = parse(text)
    except InvalidRequest:
        return
    assert parse(str(found)) == found
    again = urlsplit(found.url)
    assert (again.scheme, again.hostname) == (found.scheme, found.host)
    assert again.port in (found.port, None) and again.path == found.path
    assert not (again.username or again.password or again.query or again.fragment)
    assert re.fullmatch(r"[!-~]+", found.url)
    assert found.ref == "" or ref_problem(found.ref) is None
    assert found.subdirectory == "" or check_path(found.subdirectory) is None


@given(
    st.lists(
        st.sampled_from(["a", "B", "0", "-", ".", "/", "+", "_", "@", "{", "lock", "..", "~", "\n"])
    ).map("".join)
)
@example("-x")
@example("a/-x")
@settings(max_examples=60)
def test_a_reference_that_we_pass_on_is_one_to_git(ref):
    """git's own check is the oracle: what we accept is a name to it, and never an option."""
    if ref_problem(ref) is not None:
        return
    assert not ref.startswith("-")
    git = subprocess.run(["git", "check-ref-format", f"refs/heads/{ref}"], check=False, capture_output=True)
    assert git.returncode == 0


def test_the_parts_are_plain_values():
    assert Repository("https", "h.test", 443, "/r").url == "https://h.test/r"
