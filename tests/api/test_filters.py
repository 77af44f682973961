"""The server does the filtering: typed, parameterised, page by page, for whoever asks."""

from __future__ import annotations

import pytest
from solo import SoloServer


def test_pages_of_what_was_asked_for_leave_none_out(solo: SoloServer) -> None:
    made = [str(solo.job("true", tags=["paged"] if n % 2 else [])["id"]) for n in range(7)]
    seen, cursor = [], ""
    while True:
        more = f"&cursor={cursor}" if cursor else ""
        page = solo.request("GET", f"/jobs?tag=paged&limit=2{more}").json()
        seen += [job["id"] for job in page["items"]]
        if not (cursor := page["next"]):
            break
    assert seen == made[1::2][::-1]


def test_a_parameter_that_may_be_given_several_times_is(solo: SoloServer) -> None:
    job = solo.job("true", tags=["first-of-two", "second-of-two"])
    solo.finished(job["id"])
    asked = "tag=first-of-two&tag=second-of-two&state=Stopped&state=Error"
    both = solo.request("GET", f"/jobs?{asked}").json()["items"]
    assert [each["id"] for each in both] == [job["id"]]
    last = solo.request("GET", "/jobs?limit=1&limit=2&tag=first-of-two").json()["items"]
    assert len(last) == 1


@pytest.mark.parametrize(
    "query",
    ["state=Nowhere", "state=", "tag=", "name=", "name=%00", "since_us=-1", "since_us=x", "until_us=1.5",
     "since_us=99999999999999999999", "machine_type=", "nme=x", "tag=" + "x" * 101, "name=" + "x" * 201,
     "&".join(["tag=x"] * 51)],
)  # fmt: skip
def test_what_is_no_filter_is_the_callers_mistake(solo: SoloServer, query: str) -> None:
    answer = solo.request("GET", f"/jobs?{query}")
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad-query")


@pytest.mark.parametrize(
    "text", ["'", "' OR 1=1 --", '"', "%", "_", "\\", "a' UNION SELECT 1", "ü\u2028", ")"]
)
def test_what_is_filtered_by_is_never_sql(solo: SoloServer, text: str) -> None:
    """Boundary: caller → database (attack: SQL in every filter)."""
    from urllib.parse import quote

    job = solo.job("true", name=f"x{text}y", tags=[f"t{text}"])
    for query in (f"name={quote('x' + text + 'y')}", f"tag={quote('t' + text)}"):
        found = solo.request("GET", f"/jobs?{query}").json()["items"]
        assert [each["id"] for each in found] == [job["id"]]
    for query in ("project_id", "machine_type"):
        assert solo.request("GET", f"/jobs?{query}={quote(text)}").json()["items"] == []
