"""``gradient login``, ``logout`` and ``whoami``, against a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from solo import SoloServer


def elsewhere(home: Path) -> dict[str, str]:
    """The environment of somebody whose own server is another one."""
    return {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "JUPYTER_RUNTIME_DIR": str(home / "rt"),
        "GRADIENT_DATA_DIR": str(home / "data"),
    }  # fmt: skip


def test_a_login_is_tried_kept_used_and_forgotten(gradient: Any, solo: SoloServer, tmp_path: Path) -> None:
    assert solo.runtime is not None
    url, token = solo.runtime.url, solo.runtime.token
    home = elsewhere(tmp_path)
    done = gradient("login", url, said=f"{token}\n", **elsewhere(tmp_path))
    assert done.code == 0, done.err
    assert token not in done.out + done.err
    who = gradient("whoami", "--json", **home).json
    assert (who["url"], who["found"]) == (url, "gradient login")
    assert who["user"] == solo.request("GET", "/whoami").json()
    assert gradient("jobs", "list", "--json", **home).code == 0
    assert gradient("logout", "--json", **home).json == {"forgotten": True}
    assert gradient("server", "status", **home).code == 1, "one's own server is used again, and there is none"
    assert gradient("logout", "--json", **home).json == {"forgotten": False}


def test_a_token_that_does_not_open_it_is_not_kept(gradient: Any, solo: SoloServer, tmp_path: Path) -> None:
    assert solo.runtime is not None
    for said in ("wrong\n", "\n", "", "two words\n", "umlaut-ä\n"):
        refused = gradient("login", solo.runtime.url, said=said, **elsewhere(tmp_path))
        assert (refused.code != 0, refused.out) == (True, "")
    for url in ("", "ftp://x", "http://user:pw@127.0.0.1:1", "http://127.0.0.1:1"):
        assert gradient("login", url, said="grp_aaaaaaaaaaaa\n", **elsewhere(tmp_path)).code != 0
    assert not (tmp_path / "config" / "gradient_jupyter" / "login.json").exists()


def test_a_key_for_one_call_is_used_once(gradient: Any, solo: SoloServer, tmp_path: Path) -> None:
    assert solo.runtime is not None
    home = {**elsewhere(tmp_path), "GRADIENT_URL": solo.runtime.url}
    assert gradient("jobs", "list", "--apiKey", solo.runtime.token, "--json", **home).code == 0
    assert gradient("projects", "list", "--api-key", solo.runtime.token, **home).code == 0
    assert gradient("jobs", "list", "--json", **home).code == 1
    logged_in = gradient("login", "--apiKey", solo.runtime.token, **home)
    assert logged_in.code == 0
    assert gradient("jobs", "list", "--json", **home).code == 0


def test_inside_a_job_a_token_is_asked_for(gradient: Any, tmp_path: Path) -> None:
    refused = gradient("jobs", "list", GRADIENT_JOB_TOKEN="grj_x", **elsewhere(tmp_path))
    assert (refused.code, "This is a running job" in refused.err) == (1, True)
