"""Which server, with which token, in which order; and that no token goes where it was not meant for."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from gradient_jupyter.client import login
from gradient_jupyter.client.locate import TOKEN_OF_CALL, Keyed, Named, locate
from gradient_jupyter.client.solo import Solo
from gradient_jupyter.resources.errors import InvalidRequest, ServerUnavailable

OURS, OTHER, FOREIGN = "grp_" + "a" * 32, "grp_" + "b" * 32, "0123456789abcdef0123456789abcd"
URL = "https://hub.example.org/services/gradient"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that names nothing."""
    for name in list(os.environ):
        if name.startswith(("GRADIENT_", "PS_", "PAPERSPACE_", "JUPYTERHUB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def found(url: str | None = None, token: str | None = None) -> tuple[str, str]:
    located = locate(url, token, start=False)
    assert isinstance(located, Named)
    address = located.find()
    assert located.how
    return address.url, address.token


def paperspace(home: Path, key: str) -> None:
    (home / ".paperspace").mkdir()
    (home / ".paperspace" / "config.json").write_text(json.dumps({"apiKey": key}))


def test_tokens_are_taken_in_the_order_that_is_written_down(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    paperspace(nowhere, "grp_paperspacefile")
    monkeypatch.setenv("GRADIENT_URL", URL)
    assert found() == (URL, "grp_paperspacefile")
    login.keep(login.Login(URL, "grp_login00000"))
    assert found() == (URL, "grp_login00000")
    for name in ("PS_API_KEY", "PAPERSPACE_API_KEY", "GRADIENT_TOKEN"):
        monkeypatch.setenv(name, f"grp_{name}")
        assert found() == (URL, f"grp_{name}")
    before = TOKEN_OF_CALL.set("grp_apikey")
    assert found() == (URL, "grp_apikey")
    assert found(URL, "grp_argument") == (URL, "grp_argument")
    TOKEN_OF_CALL.reset(before)
    monkeypatch.delenv("GRADIENT_URL")
    assert found() == (URL, "grp_GRADIENT_TOKEN"), "the address is the one of the login"


def test_what_was_kept_for_one_server_goes_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boundary: a token of one server → another server (an address in the environment)."""
    login.keep(login.Login(URL, OURS))
    monkeypatch.setenv("GRADIENT_URL", "https://evil.example.org")
    with pytest.raises(InvalidRequest, match="both an address and a token"):
        locate(start=False)
    monkeypatch.setenv("GRADIENT_URL", URL + "/")
    assert found() == (URL, OURS)


@pytest.mark.parametrize("name", ["PAPERSPACE_API_KEY", "PS_API_KEY"])
def test_a_key_of_paperspace_breaks_nothing_and_is_sent_nowhere(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path, name: str
) -> None:
    """Boundary: somebody's key of another service → our server."""
    monkeypatch.setenv(name, FOREIGN)
    paperspace(nowhere, FOREIGN)
    assert isinstance(locate(start=False), Solo)
    monkeypatch.setenv("GRADIENT_URL", URL)
    with pytest.raises(InvalidRequest):
        locate(start=False)
    login.keep(login.Login(URL, OURS))
    assert found() == (URL, OURS)


@pytest.mark.parametrize("name", ["PAPERSPACE_API_KEY", "PS_API_KEY"])
def test_a_token_of_ours_without_an_address_leaves_ones_own_server(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, OURS)
    assert isinstance(locate(start=False), Solo)


def test_a_key_for_one_call_may_ask_ones_own_server() -> None:
    before = TOKEN_OF_CALL.set(OTHER)
    located = locate(start=False)
    TOKEN_OF_CALL.reset(before)
    assert isinstance(located, Keyed)


def test_inside_a_job_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIENT_JOB_TOKEN", "grj_x")
    monkeypatch.setenv("PS_API_KEY", "grj_" + "a" * 40)
    with pytest.raises(ServerUnavailable) as refused:
        locate(start=False)
    assert refused.value.code == "inside-a-job"
    monkeypatch.setenv("GRADIENT_URL", URL)
    monkeypatch.setenv("GRADIENT_TOKEN", OURS)
    assert found() == (URL, OURS)


def test_it_is_kept_for_its_owner_alone(nowhere: Path) -> None:
    login.keep(login.Login(URL, OURS))
    assert stat.S_IMODE(login.path().stat().st_mode) == 0o600
    assert stat.S_IMODE(login.path().parent.stat().st_mode) == 0o700
    login.keep(login.Login(URL, OTHER))
    assert login.read() == login.Login(URL, OTHER)
    assert os.listdir(login.path().parent) == ["login.json"]
    assert login.forget() and not login.forget()
    assert login.read() is None


def test_what_others_could_have_written_is_not_believed(nowhere: Path) -> None:
    """Boundary: another user of the machine → where this person's token goes."""
    login.keep(login.Login(URL, OURS))
    login.path().chmod(0o644)
    with pytest.raises(InvalidRequest, match="others may open it"):
        login.read()
    login.forget()
    (nowhere / "elsewhere").write_text(json.dumps({"url": URL, "token": OURS}))
    login.path().symlink_to(nowhere / "elsewhere")
    with pytest.raises(InvalidRequest):
        login.read()
    login.keep(login.Login(URL, OTHER))
    assert OURS in (nowhere / "elsewhere").read_text(), "a link is replaced, not written through"
    login.path().write_text("{")
    with pytest.raises(InvalidRequest, match="gradient logout"):
        login.read()
    login.path().parent.chmod(0o777)
    with pytest.raises(InvalidRequest, match="not yours alone"):
        login.keep(login.Login(URL, OURS))
