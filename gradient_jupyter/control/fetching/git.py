"""git, as a guest: one bare repository in a directory of its own, filled from one checked address.

It is given nothing of the system's or a user's configuration, no proxy, no credentials, no protocol but the
address's own, and no say in where to connect: no redirect is followed, and the host's name is pinned to the
address that was checked. There is no working tree. What it prints is read by us and never shown: whoever
made the repository, or keeps its server, can put words into it. Every method blocks.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, TypeVar, cast

from gradient_jupyter.control.fetching import lifeline
from gradient_jupyter.control.fetching.outbound import Target
from gradient_jupyter.resources.errors import (
    GradientError,
    InvalidRequest,
    NoSpace,
    NotFound,
    OutsideFailed,
    ServerError,
    TooLarge,
)
from gradient_jupyter.resources.secret import SecretValue
from gradient_jupyter.workspace.commit import LISTING, Listed, parse_listing
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.repository import Repository
from gradient_jupyter.workspace.wording import shown, size_text

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The first that can be told the address of a host (``http.curloptResolve``).
OLDEST = (2, 37)
#: What git and its libraries want by themselves, beside what the size of the repository asks for.
_MEMORY_BYTES = 256 << 20
_FETCHED = "refs/gradient/fetched"
_REFS_BYTES = 1 << 20
_SAID_BYTES = 8 << 10
_PIECE = 1 << 16

_ALWAYS = (
    "protocol.allow=never",
    "http.followRedirects=false",
    "http.proxy=",
    "http.emptyAuth=false",
    "http.sslVerify=true",
    "credential.helper=",
    "core.askPass=",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "transfer.fsckObjects=true",
    "transfer.bundleURI=false",
    "submodule.recurse=false",
    # A pack stays one file, which one limit holds, and is read in windows that fit our memory limit.
    "fetch.unpackLimit=1",
    "pack.threads=1",
    "core.packedGitWindowSize=32m",
    "core.packedGitLimit=256m",
    "core.deltaBaseCacheLimit=64m",
    "core.bigFileThreshold=16m",
    # Nothing goes on after its command, and nothing here has to survive a power cut.
    "gc.auto=0",
    "maintenance.auto=false",
    "core.fsync=none",
    # Old commits of good people have these; none of it is more than ugly.
    *(
        f"fetch.fsck.{each}=ignore"
        for each in (
            "badTimezone", "zeroPaddedFilemode", "missingSpaceBeforeDate", "missingSpaceBeforeEmail",
            "missingNameBeforeEmail", "missingEmail", "badEmail", "zeroPaddedDate", "badFilemode",
            "multipleAuthors", "nulInCommit", "missingTaggerEntry", "badTagName", "extraHeaderEntry",
        )
    ),
)  # fmt: skip
#: Where this system's authorities are, if its administrator says so in the environment.
_PASSED_ON = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Limits(NamedTuple):
    """``most_bytes`` is what people are told; ``room_bytes``, where less, what the disk has left."""

    most_bytes: int
    room_bytes: int

    @property
    def bytes(self) -> int:
        return min(self.most_bytes, self.room_bytes)

    @property
    def memory(self) -> int:
        """For a file and what it is a difference to. Large files are read in pieces; what needs more was
        made to cost memory."""
        return _MEMORY_BYTES + 2 * self.bytes


class Login(NamedTuple):
    """Who we are to the repository's host. It is told to that host and to nobody else."""

    username: str
    password: SecretValue

    def basic(self) -> str:
        """As HTTP's basic authentication has it."""
        return base64.b64encode(f"{self.username}:{self.password.reveal()}".encode()).decode()

    def hide(self, said: str) -> str:
        """What somebody said, without it: a server may say again what it was told."""
        return said.replace(self.basic(), "***").replace(self.password.reveal(), "***")


class Git:
    """One repository in the empty directory ``home``. ``kill`` ends whatever runs, from any thread."""

    def __init__(
        self,
        home: Path,
        repository: Repository,
        target: Target,
        limits: Limits,
        ca_file: str | None,
        login: Login | None = None,
    ) -> None:
        self._home = home
        self._repository = repository
        self._limits = limits
        self._environment = _environment(home)
        self._login = login
        if login is not None:
            # Beside the command line, which others can read, and for this host alone.
            self._environment |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{_origin(repository)}.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {login.basic()}",
            }
        self._config = [*_ALWAYS, f"protocol.{target.scheme}.allow=always"]
        if target.host != target.address:
            address = f"[{target.address}]" if ":" in target.address else target.address
            self._config.append(f"http.curloptResolve={target.host}:{target.port}:{address}")
        if ca_file is not None:
            self._config.append(f"http.sslCAInfo={ca_file}")
        self._lock = threading.Lock()
        self._stopped = False
        self._lifeline = -1
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """Ends what runs and lets nothing run any more. Whoever waits for it gets ``Killed``."""
        with self._lock:
            self._stopped = True
            self._cut()

    def commit(self) -> str:
        """The commit that the reference stands for now; no objects are fetched."""
        self._init("sha1")
        ref = self._repository.ref
        names = _names(ref)
        found: dict[str, str] = {}
        text = self._run("ls-remote", "--", self._repository.url, *names, *(f"{name}^{{}}" for name in names))
        for line in text.decode(errors="replace").splitlines():
            oid, _, name = line.partition("\t")
            if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", oid):
                found[name] = oid
        for name in names:
            if name in found:
                self._name = name
                return found.get(f"{name}^{{}}", found[name])
        raise _no_ref(self._repository)

    def fetch(self, commit: str) -> str:
        """Brings the reference's objects here, without history. Returns the commit it is by now.

        ``commit`` is what ``commit()`` said, or the full commit that was asked for.
        """
        if len(commit) == 64:
            self._init("sha256")
        elif not (self._home / "git").exists():
            self._init("sha1")
        # By name where it has one: not every server gives out what is only known by its digits.
        source = self._repository.commit or self._name
        self._run(
            "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
            "--", self._repository.url, f"+{source}:{_FETCHED}",
        )  # fmt: skip
        try:
            return self._run("rev-parse", "--verify", "--quiet", f"{_FETCHED}^{{commit}}").decode().strip()
        except _Failed:
            raise InvalidRequest(
                f"'{self._repository.ref}' is not a commit, nor does it lead to one.",
                next="Name a branch, a tag or a full commit.",
                code="no-such-ref",
            ) from None

    def listing(self) -> list[Listed]:
        """Every file of what was fetched, below the subdirectory that was asked for."""
        below = self._repository.subdirectory
        if below:
            kind = self._answer("cat-file", "-t", f"{_FETCHED}:{below}")
            if kind != "tree":
                raise NotFound(
                    f"The repository has no directory '{shown(below)}'.",
                    next="Name it as seen from the top of the repository.",
                    code="no-such-directory",
                )
        with self._running("ls-tree", *LISTING, f"{_FETCHED}:{below}") as stdout:
            return parse_listing(iter(lambda: stdout.read(_PIECE), b""))

    def read(self, objects: Sequence[str], receive: Callable[[BinaryIO], None]) -> None:
        """``workspace.commit.Read``."""
        wanted = self._home / "wanted"
        wanted.write_text("".join(f"{each}\n" for each in objects))
        with (
            wanted.open("rb") as stdin,
            self._running("cat-file", "--batch", "--buffer", stdin=stdin) as stdout,
        ):
            receive(stdout)

    def _init(self, hash: str) -> None:
        remove_tree(self._home / "git")
        self._run("init", "--quiet", "--bare", "--template=", f"--object-format={hash}", "git", bare=False)

    def _answer(self, *words: str) -> str:
        """What it prints, or nothing where it fails."""
        try:
            return self._run(*words).decode(errors="replace").strip()
        except _Failed:
            return ""

    def _run(self, *words: str, bare: bool = True) -> bytes:
        with self._running(*words, bare=bare) as stdout:
            text = stdout.read(_REFS_BYTES + 1)
            if len(text) > _REFS_BYTES:
                raise OutsideFailed("The repository's server says more than it should.", code="git-failed")
            return text

    @contextlib.contextmanager
    def _running(self, *words: str, stdin: BinaryIO | None = None, bare: bool = True) -> Iterator[BinaryIO]:
        """What the command prints. Afterwards it has ended: well, or an error says how."""
        process = self._start(words, stdin, bare)
        assert process.stdout is not None and process.stderr is not None
        said = _Said(process.stderr)
        error: Exception | None = None
        try:
            yield cast("BinaryIO", process.stdout)
        except (EOFError, ValueError) as cut:
            error = cut  # what it printed ended too early: why, it says itself
        except BaseException:
            with self._lock:
                self._cut()
            raise
        finally:
            process.stdout.close()
            said.join()  # to its end: nobody of the group is left who could say anything
            process.stderr.close()
            with self._lock:
                stopped = self._stopped
                self._cut()
            code = process.wait()
        if stopped:
            raise Killed
        if code or error:
            raise self._why(words[0], code, said.text) from error

    def _start(self, words: Sequence[str], stdin: BinaryIO | None, bare: bool) -> subprocess.Popen[bytes]:
        settings = [part for each in self._config for part in ("-c", each)]
        where = ["--git-dir=git"] if bare else []
        ours, theirs = os.pipe()
        try:
            with self._lock:
                if self._stopped:
                    os.close(theirs)
                    raise Killed
                self._lifeline = theirs
            process = subprocess.Popen(
                [
                    sys.executable, "-I", "-S", lifeline.__file__, str(ours), str(self._limits.bytes),
                    str(self._limits.memory), "git", *settings, *where, *words,
                ],
                cwd=self._home, env=self._environment, pass_fds=(ours,), start_new_session=True,
                stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            with self._lock:
                self._process = process
                if self._stopped:
                    self._cut()
            return process
        except BaseException:
            with self._lock:
                self._cut()
            raise
        finally:
            os.close(ours)

    def _cut(self) -> None:
        """Ends what runs, with the lock held. Twice over: who watches the lifeline may have been killed."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        process, self._process = self._process, None
        if process is not None:  # nobody has waited for it yet, so the group's number is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _why(self, verb: str, code: int, said: str) -> GradientError:
        """Our sentence for what git said."""
        repository, where = self._repository, self._repository.url
        known = _known(said)
        if self._login is not None:
            said = self._login.hide(said)
        log.info("git %s of %s ended with %s: %s", verb, where, code, shown(said.strip()[-2000:]))
        match known:
            case "space":
                return _no_space()
            case "large" if self._limits.room_bytes < self._limits.most_bytes:
                return _no_space()
            case "large":
                return TooLarge(
                    f"The repository is larger than the limit of {size_text(self._limits.most_bytes)}.",
                    next="Take a smaller one, or ask the administrator: GradientServer.outbound_max_bytes.",
                    code="repository-too-large",
                )
            case "absent" if self._login is not None:
                return NotFound(
                    f"There is no repository at {where} that this password opens.",
                    next="Check the address, and that the secret holds a token that may read it: "
                    "gradient secrets set NAME sets it anew.",
                    code="no-such-repository",
                )
            case "absent":
                return NotFound(
                    f"There is no repository at {where} that can be read without a password.",
                    next="Check the address. A private one wants --workspacePassword secret:NAME; "
                    "or clone it and send the directory.",
                    code="no-such-repository",
                )
            case "ref":
                return _no_ref(repository)
            case "moved":
                return OutsideFailed(
                    f"{where} sends those who ask elsewhere, and that is not followed.",
                    next="Open it in a browser and use the address it has now."
                    if repository.path.endswith(".git")
                    else "Try it with .git at the end of its path, or use the address a browser shows.",
                    code="repository-moved",
                )
            case "tls":
                return OutsideFailed(
                    f"The server of {where} cannot show who it is: its certificate is not trusted.",
                    next="An administrator can name the authority to trust: GradientServer.outbound_ca_file.",
                    code="tls-failed",
                )
            case "bad":
                return InvalidRequest(
                    f"The repository at {where} holds something that git refuses.",
                    next="Clone it and run git fsck there; do not trust it before.",
                    code="repository-refused",
                )
        return _Failed(
            f"{where} could not be fetched.",
            next="Check that it is a git repository: git ls-remote. The server's log says what git said.",
            code="git-failed",
        )


class Killed(Exception):
    """It was ended by ``kill``."""


class _Failed(OutsideFailed):
    """git said something that we have no sentence for."""


class _Said:
    """Reads what a process complains about, to its end, and keeps the first and the last of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._first = b""
        self._last = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return (self._first + self._last).decode(errors="replace")

    def join(self) -> None:
        self._thread.join()

    def _read(self) -> None:
        while piece := os.read(self._stream.fileno(), _PIECE):
            room = _SAID_BYTES - len(self._first)
            self._first += piece[:room]
            self._last = (self._last + piece[room:])[-_SAID_BYTES:]


def check_version() -> None:
    """Raises ``ServerError`` with what to do when this server has no git, or one that is too old."""
    try:
        said = subprocess.run(
            ["git", "version"], env=_environment(Path("/")), stdin=subprocess.DEVNULL, capture_output=True,
            check=False,
        ).stdout.decode(errors="replace")  # fmt: skip
    except OSError:
        raise ServerError(
            "This server has no git, so it cannot fetch repositories.",
            next="Ask its administrator to install git; until then clone it and send the directory.",
            code="no-git",
        ) from None
    match = re.search(r"version (\d+)\.(\d+)", said)
    if match is None or (int(match[1]), int(match[2])) < OLDEST:
        raise ServerError(
            f"The git of this server is too old: {shown(said.strip()[:60])}. "
            f"It has to be {OLDEST[0]}.{OLDEST[1]} or newer to be told where to connect.",
            next="Ask its administrator to update it; until then clone it and send the directory.",
            code="git-too-old",
        )


def _origin(repository: Repository) -> str:
    host = f"[{repository.host}]" if ":" in repository.host else repository.host
    return f"{repository.scheme}://{host}:{repository.port}/"


def _environment(home: Path) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }


def _names(ref: str) -> list[str]:
    """What ``ref`` may be called in full, the likeliest first."""
    if not ref or ref == "HEAD":
        return ["HEAD"]
    return [ref] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]


#: What git says, in the order in which it is looked for. ``LC_ALL=C`` keeps it English.
_SAYINGS = (
    ("space", r"No space left on device|Disk quota exceeded"),
    ("large", r"File too large|[Oo]ut of memory|Cannot allocate memory|pack exceeds maximum"),
    ("bad", r"fsck error|\berror: object [0-9a-f]+: |badTree|contains '\.git'|hasDotgit|non-printable"),
    (
        "ref",
        r"couldn't find remote ref|not our ref|does not allow request for unadvertised|no such remote ref",
    ),
    ("moved", r"returned error: 30[1-8]|redirect"),
    (
        "absent",
        r"returned error: 40[134]|repository '[^']*' not found|could not read Username|Authentication failed",
    ),
    ("tls", r"[Cc]ertificate|SSL|TLS|CAfile|gnutls|GnuTLS"),
)


def _known(said: str) -> str:
    return next((name for name, pattern in _SAYINGS if re.search(pattern, said)), "")


def _no_ref(repository: Repository) -> NotFound:
    if not repository.ref:
        return NotFound(
            f"The repository at {repository.url} has no commits yet.",
            next="Push some, or name a branch: @BRANCH.",
            code="no-such-ref",
        )
    short = re.fullmatch(r"[0-9a-fA-F]{4,39}", repository.ref)
    return NotFound(
        f"There is no branch, tag or commit '{repository.ref}' in {repository.url}.",
        next="A commit is named by all its 40 digits (git rev-parse HEAD)."
        if short
        else "git ls-remote shows what there is; a commit is named by all its 40 digits.",
        code="no-such-ref",
    )


def _no_space() -> NoSpace:
    return NoSpace(
        "The server's disk has no room for this repository.",
        next="Delete jobs that are no longer needed, or ask the administrator for space.",
    )
