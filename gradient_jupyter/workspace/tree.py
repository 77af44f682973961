"""Whether a manifest describes a tree that can be made, and whose links stay inside it. No I/O.

``resources.snapshot`` checks one path and one link by itself. Here they are seen together: a path that is
there twice, a file that is also a directory, and links that leave the tree only through other links
(``d -> .`` and then ``l -> d/..``: each harmless, together the parent directory).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import (
    Directory,
    Entry,
    File,
    Link,
    Manifest,
    check_link,
    check_path,
    chunk_count,
)
from gradient_jupyter.workspace.wording import shown, size_text

#: More than this is a dataset or an environment, not a workspace.
MAX_ENTRIES = 200_000
#: Parts of a path. One descriptor per level is open while a tree is made or walked.
MAX_DEPTH = 100
MAX_PATH_BYTES = 4096
#: As many links as Linux follows in one look-up.
_MAX_LINKS = 40

_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_manifest(manifest: Manifest, *, max_entries: int = MAX_ENTRIES, canonical: bool = False) -> None:
    """Raise ``InvalidRequest`` (code ``bad-manifest``) unless the manifest describes a tree that can be
    made.

    ``canonical``: and unless it is the one manifest that its content has, so that the same content is the
    same snapshot whoever sends it. What is stored already is made without that.
    """
    if len(manifest.entries) > max_entries:
        raise _bad(f"The manifest has {len(manifest.entries)} entries, more than the limit of {max_entries}.")
    kinds: dict[str, Entry] = {}
    sizes: dict[str, int] = {}
    for entry in manifest.entries:
        problem = entry_problem(entry)
        if problem:
            raise _bad(f"The path '{shown_path(entry.path)}' {problem}.")
        if entry.path in kinds:
            raise _bad(f"The path '{shown_path(entry.path)}' is there twice.")
        kinds[entry.path] = entry
        if isinstance(entry, File):
            if canonical and entry.chunks is msgspec.UNSET and chunk_count(entry.size):
                raise _bad(f"The path '{shown_path(entry.path)}' is a large file without its chunks.")
            for digest, _, size in ((entry.digest, 0, entry.size), *entry.blobs()):
                if sizes.setdefault(digest, size) != size:
                    raise _bad(f"A digest of '{shown_path(entry.path)}' stands for two different sizes.")
    _check_parents(kinds)
    links = {path: entry.target for path, entry in kinds.items() if isinstance(entry, Link)}
    for path in links:
        if not stays_inside(path, links):
            raise _bad(f"The link '{shown_path(path)}' points outside the directory, by way of other links.")


def entry_problem(entry: Entry) -> str | None:
    """What is wrong with this entry by itself, or None. Continues a sentence that begins with its path."""
    problem = check_path(entry.path)
    if problem:
        return problem
    if len(entry.path.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if entry.path.count("/") >= MAX_DEPTH:
        return f"is more than {MAX_DEPTH} directories deep"
    if isinstance(entry, File):
        if not _DIGEST.fullmatch(entry.digest):
            return "has something else than a digest"
        if not 0 <= entry.size <= 2**53:
            return f"claims an impossible size ({size_text(entry.size)})"
        if entry.chunks is not msgspec.UNSET:
            due = chunk_count(entry.size)
            if len(entry.chunks) != due:
                return f"has {len(entry.chunks)} chunks where {entry.size} bytes have {due or 'none'}"
            if not due:
                return "has an empty list of chunks"
            if not all(_DIGEST.fullmatch(chunk) for chunk in entry.chunks):
                return "has a chunk that is no digest"
    if isinstance(entry, Link):
        return link_problem(entry.path, entry.target)
    return None


def link_problem(path: str, target: str) -> str | None:
    """What is wrong with the link at ``path`` if nothing on its way is a link itself, or None."""
    try:
        size = len(target.encode())
    except UnicodeEncodeError:
        return "points to a name that is not UTF-8"
    if not 0 < size < MAX_PATH_BYTES:
        return "points to nothing that can be stored"
    return check_link(path, target)


def stays_inside(path: str, links: Mapping[str, str]) -> bool:
    """Whether the link at ``path`` leads to a place inside the tree, following ``links`` (path to target)
    as the system would. A link in a circle leads nowhere, which is inside."""
    here = path.split("/")[:-1]
    ahead = links[path].split("/")[::-1]
    followed = 0
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not here:
                return False
            here.pop()
            continue
        here.append(part)
        target = links.get("/".join(here))
        if target is None:
            continue
        followed += 1
        if followed > _MAX_LINKS:
            return True
        if target.startswith("/"):
            return False
        here.pop()
        ahead.extend(target.split("/")[::-1])
    return True


def _check_parents(kinds: Mapping[str, Entry]) -> None:
    seen: set[str] = set()
    for path in kinds:
        parent = path.rpartition("/")[0]
        while parent and parent not in seen:
            seen.add(parent)
            above = kinds.get(parent)
            if above is not None and not isinstance(above, Directory):
                what = "file" if isinstance(above, File) else "link"
                raise _bad(f"'{shown_path(parent)}' is a {what} and cannot hold '{shown_path(path)}'.")
            parent = parent.rpartition("/")[0]


def shown_path(path: str) -> str:
    """A path out of a request, short enough for a sentence, whatever it holds."""
    text = shown(path.encode("utf-8", "surrogatepass"))
    return text if len(text) <= 200 else text[:200] + "…"


def _bad(message: str) -> InvalidRequest:
    return InvalidRequest(message, next="Send the manifest that a current client makes.", code="bad-manifest")
