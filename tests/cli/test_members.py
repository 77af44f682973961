"""Members as they are typed and shown. Who may do what is ``control/test_members``'s."""

from __future__ import annotations

from typing import Any


def test_members_are_listed_and_mistakes_are_told(gradient: Any) -> None:
    gradient("projects", "create", "shared")
    listed = gradient("projects", "members", "list", "shared", "--json").json
    assert [(one["role"], one["owner"]) for one in listed] == [("admin", True)]
    assert " owner " in gradient("projects", "members", "list", "shared").out
    me = listed[0]["name"]
    for words, says in (
        (("add", "shared", "nobody"), "knows nobody called 'nobody'"),
        (("add", "shared", "group:botany"), "no group 'botany'"),
        (("set", "shared", me, "--role", "viewer"), "stays its admin"),
        (("remove", "shared", me), "stays its admin"),
        (("remove", "shared", "a/../b"), "knows nobody"),
        (("list", "pr000000000000"), "There is no project"),
    ):
        refused = gradient("projects", "members", *words)
        assert (refused.code, refused.out) == (1, "")
        assert says in refused.err
    assert gradient("projects", "members", "add", "shared", "x", "--role", "king").code == 2
    assert gradient("projects", "members", "set", "shared", "x").code == 2
