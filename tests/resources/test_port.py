"""Ports as people write them."""

from __future__ import annotations

import pytest

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.port import parse


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("8080:8888", ["8080:8888:http"]),
        ("2222:22", ["2222:22:ssh"]),
        ("8443:443", ["8443:443:https"]),
        ("8080:8888:https", ["8080:8888:https"]),
        ("5000:5000, 6006:6007:tensorboard", ["5000:5000:http", "6006:6007:tensorboard"]),
        (["1024:1", "65535:65534"], ["1024:1:http", "65535:65534:http"]),
    ],
)
def test_ports_are_read_as_gradients_users_write_them(written: str | list[str], read: list[str]) -> None:
    assert [str(port) for port in parse(written)] == read


@pytest.mark.parametrize(
    "written",
    [
        "",
        "8080",
        "8080:",
        ":80",
        "1023:80",
        "0:80",
        "65536:80",
        "8080:0",
        "8080:65536",
        "8080:80/udp",
        "a:b",
        "8080:80:",
        "8080:80:HTTP",
        "8080:80:ht tp",
        "-8080:80",
        "8080:8 0",
        "８０８０:80",
        "8080:80:http:x",
        "8080:80,",
        "99999999999999999999:80",
    ],
)
def test_what_is_no_port_is_refused_in_a_sentence(written: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(written)
    assert refused.value.code == "bad-ports"
    assert "EXT:INT" in refused.value.next


@pytest.mark.parametrize("written", ["8080:1,8080:2", "8080:9000,8081:9000", "9000:9001,9001:9000"])
def test_a_number_stands_for_one_thing_only(written: str) -> None:
    """Fault: two forwarders that lead to each other carry one connection for ever."""
    with pytest.raises(InvalidRequest, match="is named by"):
        parse(written)
