"""The server never goes where a caller wants it to and its administrator does not (boundary B2, abuse 11).

A listener on loopback plays whatever lies behind the server: a metadata service, a database, another user's
server. It must not hear of a single connection. The repository server beside it is git's own, over TLS.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from gitserver import GitServer, Hang, Silent, redirect, refuse, working_in
from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.control.fetching.outbound import Outbound, Resolve, Rule, is_public, parse_rule, resolve
from gradient_jupyter.control.fetching.visits import Visits
from gradient_jupyter.resources.errors import (
    Forbidden,
    GradientError,
    InvalidRequest,
    NotFound,
    OutsideFailed,
    TooLarge,
)
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.commit import Checkout
from gradient_jupyter.workspace.repository import parse

_ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    found = GitServer(tmp_path / "server")
    yield found
    found.stop()


@pytest.fixture
def inner() -> Iterator[Silent]:
    """What must stay silent. The test fails when it heard anything."""
    with Silent() as listener:
        yield listener
        assert not listener.heard


Fetch = Callable[..., Checkout]


@pytest.fixture
def fetch(tmp_path: Path, server: GitServer) -> Iterator[Fetch]:
    """Fetches an address as the server does. Whatever comes of it, nothing is left behind."""
    root = tmp_path / "fetches"

    def fetch(
        url: str,
        *,
        allow: Sequence[str] | None = None,
        resolve: Resolve = resolve,
        most_bytes: int = 64 << 20,
        timeout_s: float = 60,
        ca_file: str | None = str(server.cert),
    ) -> Checkout:
        rules = [f"localhost:{server.port}", f"git.test:{server.port}"] if allow is None else allow
        outbound = Outbound([parse_rule(rule) for rule in rules], ca_file=ca_file, resolve=resolve)

        async def run() -> Checkout:
            visits = Visits(
                root, BlobStore(tmp_path / "blobs"), outbound, most_bytes=most_bytes, timeout_s=timeout_s,
                at_once=2, reserve_bytes=0,
            )  # fmt: skip
            try:
                repository = parse(url)
                async with visits.visit(repository, "user:u") as visit:
                    await visit.fetch(repository.commit or await visit.commit())
                    return await visit.checkout()
            finally:
                await visits.close()

        return asyncio.run(run())

    yield fetch
    assert not root.exists() or list(root.iterdir()) == []
    assert working_in(root) == {}


def leads_to(*addresses: str) -> Resolve:
    """A name service that gives the first answer once, and then the next ones."""
    answers = list(addresses)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [answers.pop(0) if len(answers) > 1 else answers[0]]

    return resolve


def code(error: pytest.ExceptionInfo[GradientError]) -> str:
    assert error.value.message.endswith(".")
    return error.value.code


# Addresses.


PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1",
    "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1",
    "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:db8::1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fec0::1", "ff02::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "140.82.121.3", "172.32.0.1", "2606:50c0:8000::153", "2a00:1450:4001::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_not_gone_to_by_number_or_name(address):
    bare = Outbound()
    with pytest.raises(Forbidden) as refused:
        asyncio.run(bare.target("https", address, 443))
    assert code(refused) == "address-refused"
    with pytest.raises(Forbidden) as refused:
        asyncio.run(Outbound(resolve=leads_to(address)).target("https", "innocent.test", 443))
    assert address not in str(refused.value)  # what a name leads to inside is nobody's business


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is(address):
    assert is_public(ip_address(address))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_counts_as_public_that_python_knows_better(address):
    if is_public(address):
        assert address.is_global and not address.is_multicast
        assert getattr(address, "ipv4_mapped", None) is None
        assert getattr(address, "sixtofour", None) is None and getattr(address, "teredo", None) is None


@pytest.mark.parametrize("bad", ["10.0.0.7", "::1", "169.254.169.254"])
def test_one_bad_address_among_good_ones_spoils_the_name(bad):
    async def both(host: str, port: int) -> Sequence[str]:
        return ["8.8.8.8", bad]

    with pytest.raises(Forbidden):
        asyncio.run(Outbound(resolve=both).target("https", "half.test", 443))


def test_a_closed_port_is_refused_before_the_name_is_looked_up():
    """Even a look-up tells somebody something."""
    asked: list[str] = []

    async def asking(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["8.8.8.8"]

    for scheme, port in (("https", 8443), ("http", 80), ("https", 22)):
        with pytest.raises(Forbidden) as refused:
            asyncio.run(Outbound(resolve=asking).target(scheme, "a.test", port))
        assert code(refused) == "address-refused"
    assert asked == []


@pytest.mark.parametrize(
    ("rule", "scheme", "host", "port", "address", "allowed"),
    [
        ("10.1.0.0/16", "https", "a.test", 443, "10.1.2.3", True),
        ("10.1.0.0/16", "https", "a.test", 443, "10.2.2.3", False),
        ("10.1.0.0/16", "https", "a.test", 8443, "10.1.2.3", False),
        ("10.1.0.0/16:8443", "https", "a.test", 8443, "10.1.2.3", True),
        ("10.1.0.0/16:8443", "https", "a.test", 443, "10.1.2.3", False),
        ("10.1.2.3", "https", "10.1.2.3", 443, "10.1.2.3", True),
        ("a.test", "https", "a.test", 443, "10.1.2.3", True),
        ("a.test", "https", "a.test", 443, "127.0.0.1", True),
        ("a.test", "https", "a.test", 443, "169.254.169.254", False),
        ("a.test", "https", "a.test", 443, "fe80::1", False),
        ("a.test", "https", "b.a.test", 443, "10.1.2.3", False),
        ("a.test", "https", "a.test.evil.test", 443, "10.1.2.3", False),
        ("A.test:8443", "https", "a.test", 8443, "8.8.8.8", True),
        ("a.test:8443", "https", "a.test", 443, "10.1.2.3", False),
        ("a.test:8443", "https", "b.test", 8443, "8.8.8.8", False),
        ("http://a.test", "http", "a.test", 80, "8.8.8.8", True),
        ("http://a.test", "https", "a.test", 80, "8.8.8.8", False),
        ("a.test:80", "http", "a.test", 80, "8.8.8.8", False),
        ("[fd00::1]:8443", "https", "a.test", 8443, "fd00::1", True),
        ("fd00::/8", "https", "a.test", 443, "fd00::1", True),
        ("169.254.0.0/16", "https", "a.test", 443, "169.254.1.1", True),
        ("0.0.0.0/0", "https", "a.test", 443, "0.0.0.0", False),
        ("0.0.0.0/0", "https", "a.test", 443, "255.255.255.255", False),
        ("::/0", "https", "a.test", 443, "ff02::1", False),
        # Whoever opens a translating network has not opened what lies behind it.
        ("64:ff9b::/96", "https", "a.test", 443, "64:ff9b::808:808", True),
        ("64:ff9b::/96", "https", "a.test", 443, "64:ff9b::a9fe:a9fe", False),
        ("2002::/16", "https", "a.test", 443, "2002:7f00:1::", False),
        ("2001::/32", "https", "a.test", 443, "2001:0:808:808:0:0:80ff:fffe", False),
        ("::ffff:0:0/96", "https", "a.test", 443, "::ffff:10.0.0.1", False),
    ],
)
def test_an_administrators_line_opens_what_it_says_and_nothing_else(
    rule, scheme, host, port, address, allowed
):
    outbound = Outbound([parse_rule(rule)], resolve=leads_to(address))
    assert outbound._allows(scheme, host, port, ip_address(address)) is allowed


@pytest.mark.parametrize(
    "line",
    ["", "10.1.2.3/8", "a.test:0", "a.test:99999", "a.test:https", "ftp://a.test", "a b", "*", "*.a.test",
     "0177.0.0.1", "2130706433", "fe80::1%eth0", "https://a.test/path", "user@a.test", "[fd00::1", "a.test."],
)  # fmt: skip
def test_a_line_that_means_nothing_is_refused_when_it_is_read(line):
    with pytest.raises(ValueError, match=r"\.$"):
        parse_rule(line)


@given(st.text(max_size=40))
def test_any_line_is_a_rule_or_a_sentence(line):
    try:
        rule = parse_rule(line)
    except ValueError as error:
        assert str(error).endswith(".")
    else:
        assert isinstance(rule, Rule) and 1 <= rule.port <= 65535


# What callers write.


HOSTILE = [
    # Other protocols, and what git or its helpers would take for options or commands.
    "git+http://127.0.0.1:{port}/x", "git+ssh://127.0.0.1:{port}/x", "git+file:///etc", "git+git://127.0.0.1:{port}/x",
    "git+ext::sh -c 'touch canary'", "git+https::https://127.0.0.1:{port}/x", "git+ftp://127.0.0.1:{port}/x",
    "git+https://-oProxyCommand=touch%20canary/x", "git+--upload-pack=touch canary", "git+https://h/x@--upload-pack=id",
    "git+https://localhost:{port}/x@-oProxyCommand=id", "git+ssh://-oProxyCommand=touch$IFS.canary/x",
    # Straight at it, however the number is written.
    "git+https://127.0.0.1:{port}/x", "git+https://localhost:{port}/x", "git+https://[::1]:{port}/x",
    "git+https://2130706433:{port}/x", "git+https://0x7f000001:{port}/x", "git+https://0177.0.0.1:{port}/x",
    "git+https://127.1:{port}/x", "git+https://0:{port}/x", "git+https://127.0.0.1.:{port}/x",
    "git+https://localhost.:{port}/x", "git+https://[::ffff:127.0.0.1]:{port}/x",
    "git+https://[::ffff:7f00:1]:{port}/x", "git+https://[0:0:0:0:0:0:0:1]:{port}/x",
    "git+https://[fe80::1%25lo]:{port}/x", "git+https://[::1%lo]:{port}/x", "git+https://0x7f.1:{port}/x",
    "git+https://①②⑦.0.0.1:{port}/x", "git+https://１２７.0.0.1:{port}/x", "git+https://127。0。0。1:{port}/x",
    "git+https://ⓛocalhost:{port}/x", "git+https://xn--localhost:{port}/x", "git+https://%31%32%37.0.0.1:{port}/x",
    # One host for whoever checks, another for whoever connects.
    "git+https://github.com@127.0.0.1:{port}/x", "git+https://github.com:443@127.0.0.1:{port}/x",
    "git+https://127.0.0.1:{port}\\@github.com/x", "git+https://github.com\\@127.0.0.1:{port}/x",
    "git+https://127.0.0.1:{port}#@github.com/x", "git+https://127.0.0.1:{port}?@github.com/x",
    "git+https://github.com/@127.0.0.1:{port}/x?", "git+https://github.com\t@127.0.0.1:{port}/x",
    "git+https://github.com\n127.0.0.1:{port}/x",
    "git+https:///127.0.0.1:{port}/x", "git+https:127.0.0.1:{port}/x",
    "git+https://[127.0.0.1]:{port}/x", "git+https://github.com:{port}:443/x",
    "git+https://127.0.0.1:{port}:443/x",
    "git+https://user:secret@127.0.0.1:{port}/x", "git+https://:@127.0.0.1:{port}/x",
    "git+https://github.com,127.0.0.1:{port}/x", "git+https://127.0.0.1:0{port}/x", "git+https://127.0.0.1:+{port}/x",
    "git+https://localhost:{port}:127.0.0.1/x", "git+https://169.254.169.254/latest/meta-data",
    "git+https://[fd00:ec2::254]/latest", "git+https://metadata/computeMetadata", "git+HTTPS://127.0.0.1:{port}/x",
]  # fmt: skip

_TRY_ALL = """
import asyncio, json, sys
from pathlib import Path
from gradient_jupyter.control.fetching.outbound import Outbound
from gradient_jupyter.control.fetching.visits import Visits
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.repository import parse

async def main():
    root = Path(sys.argv[1])
    visits = Visits(root / "fetches", BlobStore(root / "blobs"), Outbound(), most_bytes=1 << 20, timeout_s=60,
                    at_once=1, reserve_bytes=0)
    said = {}
    for url in json.loads(sys.argv[2]):
        try:
            async with visits.visit(parse(url), "user:u") as visit:
                await visit.commit()
                said[url] = "it went there"
        except GradientError as error:
            said[url] = error.code
    await visits.close()
    _, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[3]))
    writer.close()
    print(json.dumps(said))

asyncio.run(main())
"""


def test_no_hostile_address_makes_anything_connect_or_any_git_start(tmp_path, inner):
    """Rows 25, 58, 60: each is refused, and the system calls show no connection but one: to the listener that
    the script connects to in the end, so that we know that we would have seen another."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    urls = [url.replace("{port}", str(inner.port)) for url in HOSTILE]
    trace = tmp_path / "trace"
    with Silent() as seen:
        done = subprocess.run(
            ["strace", "-f", "-qq", "-yy", "-e", "trace=connect,execve", "-o", trace, sys.executable, "-c",
             _TRY_ALL, tmp_path, json.dumps(urls), str(seen.port)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((_ROOT, os.environ.get("PYTHONPATH", "")))},
        )  # fmt: skip
        assert seen.heard, done.stderr
        port = seen.port
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == set(urls)
    assert set(said.values()) <= {"bad-repository", "address-refused", "host-unknown"}, said
    assert not (tmp_path / "canary").exists()
    calls = trace.read_text().splitlines()
    programs = [call for call in calls if re.search(r'execve\("[^"]*/git"', call) and "= -1" not in call]
    assert all('["git", "version"]' in call for call in programs) and len(programs) == 1, programs
    # Looking a name up "connects" datagram sockets, also to sort the answers; TCP is what counts.
    connected = [call for call in calls if "connect(" in call and "<TCP" in call]
    assert len(connected) == 1 and f"htons({port})" in connected[0], connected


# What the other side does.


def test_a_repository_is_fetched_from_the_address_that_was_checked(fetch, server):
    """The name is known to no resolver of this system: only the pinned address can have led there."""
    with pytest.raises(OSError):
        socket.getaddrinfo("git.test", server.port)
    server.commit({"train.py": "print('leaf')\n"})
    checkout = fetch(server.url(ref="main", host="git.test"), resolve=leads_to("127.0.0.1"))
    assert [entry.path for entry in checkout.manifest.entries] == ["train.py"]
    assert server.credentials == []


def test_a_name_that_changes_its_mind_is_asked_once(fetch, server):
    """DNS rebinding: the answer that was checked is used for every connection of the fetch."""
    server.commit({"train.py": "1"})
    asked: list[str] = []
    moving = leads_to("127.0.0.1", "127.0.0.2")

    async def counted(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return await moving(host, port)

    with Silent(host="127.0.0.2", port=server.port) as other:
        fetch(server.url(host="git.test"), resolve=counted)
        assert not other.heard
    assert asked == ["git.test"]
    assert len(server.seen) > 2


def test_a_name_that_changes_before_it_is_checked_is_refused(fetch, server, inner):
    with pytest.raises(Forbidden):
        fetch(server.url(host="other.test"), resolve=leads_to("127.0.0.1"))
    assert server.seen == []


@pytest.mark.parametrize("step", ["info/refs", "git-upload-pack"])
def test_a_redirect_is_not_followed(fetch, server, inner, step):
    server.commit({"a": "1"})
    server.answers[f"/leaf.git/{step}"] = redirect(f"https://localhost:{inner.port}/leaf.git/{step}")
    with pytest.raises(OutsideFailed) as refused:
        fetch(server.url())
    assert code(refused) == "repository-moved"


def test_a_plain_file_server_cannot_send_git_elsewhere(fetch, server, inner):
    """The dumb protocol knows alternates: addresses of other stores, which git would ask."""
    commit = server.commit({"a": "1"})

    def answer(handler):
        alternates = handler.path.endswith("alternates")
        body = (
            f"https://localhost:{inner.port}/x.git/objects\n"
            if alternates
            else f"{commit}\trefs/heads/main\n"
        )
        if not alternates and "info/refs" not in handler.path:
            refuse(404)(handler)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    server.answers["/leaf.git/"] = answer
    with pytest.raises(OutsideFailed):
        fetch(server.url(ref=commit))
    with pytest.raises(OutsideFailed):
        fetch(server.url(ref="main"))


def test_a_submodule_is_not_gone_to(fetch, server, inner):
    inside = f"https://localhost:{inner.port}/x.git"
    modules = server.blob(f'[submodule "x"]\n\tpath = x\n\turl = {inside}\n'.encode())
    server.tree([("100644", modules, b".gitmodules"), ("160000", "1" * 40, b"x")])
    checkout = fetch(server.url())
    assert [entry.path for entry in checkout.manifest.entries] == [".gitmodules", "x"]
    assert any("Submodules are not fetched" in warning and "x" in warning for warning in checkout.warnings)


def test_nothing_of_the_users_or_systems_configuration_counts(fetch, server, inner, tmp_path, monkeypatch):
    """A rewriting rule, a proxy, a helper, a hook, a password: all set up, none of it used."""
    server.commit({"a": "1"})
    elsewhere = f"https://localhost:{inner.port}/"
    canary = tmp_path / "canary"
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (home / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (home / "hooks" / hook).chmod(0o755)
    config = home / ".gitconfig"
    config.write_text(
        f'[url "{elsewhere}"]\n\tinsteadOf = https://\n[http]\n\tproxy = {elsewhere}\n\tsslVerify = false\n'
        f'[credential]\n\thelper = "!touch {canary}"\n[core]\n\thooksPath = {home}/hooks\n'
        f'\tfsmonitor = "touch {canary}"\n\tgitProxy = "touch {canary}"\n\taskPass = "touch {canary}"\n'
    )
    (home / ".netrc").write_text("default login me password secret\n")
    (home / ".netrc").chmod(0o600)
    for name, value in {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home), "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_SYSTEM": str(config), "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": "https://",
        "GIT_CONFIG_KEY_0": f"url.{elsewhere}.insteadOf", "GIT_CONFIG_PARAMETERS": f"'url.{elsewhere}.insteadof'='https://'",
        "https_proxy": elsewhere, "HTTPS_PROXY": elsewhere, "ALL_PROXY": elsewhere,
        "GIT_ASKPASS": f"touch {canary}", "GIT_PROXY_COMMAND": f"touch {canary}",
        "GIT_DIR": str(home), "GIT_TEMPLATE_DIR": str(home),
        "GIT_ALLOW_PROTOCOL": "ext:file", "GIT_SSL_NO_VERIFY": "1", "GIT_EXEC_PATH": str(home),
        "GIT_TRACE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert fetch(server.url(ref="main")).manifest.entries
    server.answers["/leaf.git/"] = refuse(401, WWW_Authenticate='Basic realm="x"')
    with pytest.raises(NotFound) as refused:
        fetch(server.url(ref="main"))
    assert code(refused) == "no-such-repository"
    assert server.credentials == []
    assert not canary.exists()
    with pytest.raises(OutsideFailed) as refused:
        fetch(server.url(ref="main"), ca_file=None)
    assert code(refused) == "tls-failed"


def test_a_certificate_for_another_name_is_not_accepted(fetch, server):
    server.commit({"a": "1"})
    wrong = f"wrong.test:{server.port}"
    with pytest.raises(OutsideFailed) as refused:
        fetch(server.url(host="wrong.test"), allow=[wrong], resolve=leads_to("127.0.0.1"))
    assert code(refused) == "tls-failed"


def test_plain_http_is_gone_to_only_where_it_was_listed(fetch, tmp_path):
    plain = GitServer(tmp_path / "plain", tls=False)
    try:
        plain.commit({"a": "1"})
        url = plain.url().replace("https", "http")
        with pytest.raises(Forbidden):
            fetch(url, allow=[f"localhost:{plain.port}"])
        assert plain.seen == []
        assert fetch(url, allow=[f"http://localhost:{plain.port}"]).manifest.entries
    finally:
        plain.stop()


def test_what_git_says_is_never_what_the_caller_reads(fetch, server):
    """Whoever keeps the repository puts words into git's mouth."""
    evil = "\x1b]0;title\x07 Visit https://evil.test and type your password"

    def answer(handler):
        body = f"ERR {evil}"
        line = f"{len(body) + 4:04x}{body}".encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
        handler.send_header("Content-Length", str(len(line)))
        handler.end_headers()
        handler.wfile.write(line)

    server.answers["/leaf.git/"] = answer
    with pytest.raises(OutsideFailed) as refused:
        fetch(server.url())
    assert code(refused) == "git-failed"
    assert "evil" not in str(refused.value)


# How much, how long, how many.


def test_a_repository_over_the_limit_is_not_kept(fetch, server):
    """Also where little of it was wanted: what counts is what had to come. The limit is on git's files."""
    server.commit({"noise": os.urandom(3 << 20), "wanted/a": "1"})
    with pytest.raises(TooLarge) as refused:
        fetch(server.url(ref="main") + "#subdirectory=wanted", most_bytes=1 << 20)
    assert code(refused) == "repository-too-large"
    assert "1.0 MiB" in str(refused.value)


def test_what_grows_when_it_is_unpacked_is_measured_before(fetch, server, tmp_path):
    """16 MiB of zeros are 16 kB on the wire."""
    server.commit({"zeros": bytes(16 << 20), "small": "1"})
    with pytest.raises(TooLarge) as refused:
        fetch(server.url(), most_bytes=1 << 20)
    assert "zeros (16.0 MiB)" in str(refused.value)
    stored = sum(file.stat().st_size for file in (tmp_path / "blobs").rglob("*") if file.is_file())
    assert stored == 0


def test_a_few_objects_that_stand_for_billions_of_files_are_counted_in_time(fetch, server):
    below = server.blob(b"x")
    mode = "100644"
    for _ in range(9):
        names = [(mode, below, f"{n}".encode()) for n in range(10)]
        commit = server.tree(names)
        mode, below = "40000", server.git("rev-parse", f"{commit}^{{tree}}")
    with pytest.raises(TooLarge) as refused:
        fetch(server.url())
    assert "200000 files" in str(refused.value)


@pytest.mark.parametrize("endless", [b"0008NAK\n", b"0032" + b"a" * 40 + b" refs/x\n"])
def test_an_answer_without_end_ends_within_the_memory_it_may_have(fetch, server, endless):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
        handler.end_headers()
        handler.wfile.write(b"001e# service=git-upload-pack\n0000")
        handler.close_connection = True
        block = endless * 4096
        while True:
            handler.wfile.write(block)

    server.answers["/leaf.git/info/refs"] = answer
    with pytest.raises(GradientError) as refused:
        fetch(server.url(), most_bytes=1 << 20)
    assert code(refused) in ("repository-too-large", "git-failed")


def test_a_server_that_never_answers_is_left(fetch, server):
    hang = Hang()
    server.answers["/leaf.git/"] = hang
    with pytest.raises(OutsideFailed) as refused:
        fetch(server.url(), timeout_s=2)
    assert code(refused) == "repository-timeout"


def test_a_server_that_closes_ends_what_still_waits(server, tmp_path):
    """Visits do not rely on their callers' connections: nobody else cancels these."""
    hang = Hang()
    server.answers["/leaf.git/"] = hang

    async def run() -> None:
        outbound = Outbound([parse_rule(f"localhost:{server.port}")], ca_file=str(server.cert))
        visits = Visits(
            tmp_path / "fetches", BlobStore(tmp_path / "blobs"), outbound, most_bytes=1 << 20, timeout_s=600,
            at_once=1, reserve_bytes=0,
        )  # fmt: skip

        async def one() -> None:
            async with visits.visit(parse(server.url()), "user:u") as visit:
                await visit.commit()

        tasks = [asyncio.ensure_future(one()) for _ in range(3)]
        await asyncio.to_thread(hang.arrived.wait, 60)
        await visits.close()
        assert all(task.done() for task in tasks) or (await asyncio.wait(tasks, timeout=60))[1] == set()
        assert all(task.cancelled() for task in tasks)

    asyncio.run(run())
    assert hang.left.wait(60)
    assert list((tmp_path / "fetches").iterdir()) == []
    assert working_in(tmp_path / "fetches") == {}


def test_a_fetch_ends_even_when_who_watches_it_was_killed(fetch, server, tmp_path):
    """Fault: kill -9 of the process between us and git, as when memory runs out. Heals at the time limit."""
    hang = Hang()

    def orphan(handler):
        for pid, words in working_in(tmp_path / "fetches").items():
            if "lifeline.py" in words:
                os.kill(pid, signal.SIGKILL)
        hang(handler)

    server.answers["/leaf.git/"] = orphan
    with pytest.raises(OutsideFailed) as refused:
        fetch(server.url(), timeout_s=3)
    assert code(refused) == "repository-timeout"
    assert hang.left.wait(60)


def test_nobody_there_is_said_so(fetch, server):
    with Silent() as listener:
        port = listener.port
    with pytest.raises(OutsideFailed) as refused:
        fetch(f"git+https://localhost:{port}/x", allow=[f"localhost:{port}"])
    assert code(refused) == "host-unreachable"
    with pytest.raises(OutsideFailed) as refused:
        fetch("git+https://no-such-host.invalid/x")
    assert code(refused) == "host-unknown"


# Trees made to harm.


@pytest.mark.parametrize(
    "name", [b".git", b".GIT", b".gIt", b"git~1", b"..", b".", b"a/b", "\u200c.git".encode()]
)
def test_a_name_that_git_would_not_make_is_refused(fetch, server, name):
    """By git's own check of what it receives; that ours would find it as well, tests/workspace shows."""
    server.tree([("100644", server.blob(b"x"), name)])
    with pytest.raises(InvalidRequest) as refused:
        fetch(server.url())
    assert code(refused) == "repository-refused"


def test_links_that_leave_stay_behind(fetch, server):
    server.commit({
        "inside": ("train.py",), "out": ("../../../etc/passwd",), "absolute": ("/etc/passwd",),
        "train.py": "1", "d": (".",), "sly": ("d/..",), "circle": ("circle",), "long": ("x/" * 3000 + "y",),
    })  # fmt: skip
    checkout = fetch(server.url())
    assert [entry.path for entry in checkout.manifest.entries] == ["circle", "d", "inside", "train.py"]
    (warning,) = checkout.warnings
    assert all(name in warning for name in ("out", "absolute", "sly", "long"))
