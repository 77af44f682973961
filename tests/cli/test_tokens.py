"""``gradient tokens`` and ``gradient admin audit``."""

from __future__ import annotations

import json


def test_a_token_is_made_used_listed_and_revoked(gradient, solo):
    made = gradient("tokens", "create", "for CI", "--scope", "read", "--expires", "12h")
    assert made.code == 0, made
    token = made.out.strip()
    assert token.startswith("gru_tk") and "\n" not in token
    assert "opens read" in made.err and "not shown again" in made.err
    known = token.split("_")[1]
    named = {"GRADIENT_URL": solo.runtime.url, "GRADIENT_TOKEN": token}
    assert gradient("jobs", "list", **named).code == 0
    refused = gradient("projects", "create", "by a reader", **named)
    assert refused.code == 1 and "scope write" in refused.err and "next:" in refused.err
    listed = gradient("tokens", "list")
    assert "for CI" in listed.out and known in listed.out and token not in listed.out
    gone = gradient("tokens", "revoke", known)
    assert gone.code == 0 and known in gone.err
    assert known not in gradient("tokens", "list").out
    everything = gradient("tokens", "list", "--all", "--json").json
    assert next(each for each in everything if each["id"] == known)["revoked_us"]
    refused = gradient("jobs", "list", **named)
    assert refused.code == 1


def test_a_token_for_ever_for_one_project_as_json(gradient, solo):
    project = solo.request("POST", "/projects", json_body={"name": "bound by cli"}).json()["id"]
    made = gradient(
        "tokens", "create", "bound", "--project", project, "--scope", "write", "--expires", "never", "--json"
    ).json
    assert made["token"].startswith("gru_")
    assert made["info"]["expires_us"] is None
    assert (made["info"]["project_id"], made["info"]["scopes"]) == (project, ["write"])


def test_what_was_done_is_shown_newest_first(gradient, solo):
    known = gradient("tokens", "create", "audited").out.split("_")[1]
    gradient("tokens", "revoke", known)
    shown = gradient("admin", "audit", "--since", "1h", "-n", "5")
    assert shown.code == 0 and "token.revoke" in shown.out and known in shown.out
    found = gradient("admin", "audit", "--json", "-n", "50").json
    actions = [each["action"] for each in found if each["id"] == known]
    assert actions == ["token.revoke", "token.create"]
    assert found[0]["action"] == "audit.read"
    assert gradient("admin", "audit", "--since", "soon").code == 2


def test_of_several_tokens_it_is_said_which_were_revoked(gradient):
    def make():
        return gradient("tokens", "create", "one of many").out.split("_")[1]

    def open_ones():
        return {each["id"] for each in gradient("tokens", "list", "--json").json}

    first, second, third = make(), make(), make()
    ended = gradient("tokens", "revoke", first, "tknothing", second)
    assert ended.code == 1 and ended.out == ""
    assert f"{first}  opens nothing" in ended.err and f"{second}  opens nothing" in ended.err
    assert "tknothing  opens nothing" not in ended.err and "gradient: " in ended.err
    assert not {first, second} & open_ones()
    ended = gradient("tokens", "revoke", "--json", "tknothing", third)
    assert (ended.code, ended.json) == (1, {"revoked": [third]})
    assert "error" in json.loads(ended.err)
    assert third not in open_ones()
    assert gradient("tokens", "revoke", "--json", make()).code == 0
