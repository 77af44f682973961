"""What is said before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from gradient_jupyter.workspace.preflight import Preflight, preflight
from gradient_jupyter.workspace.scan import scan

Make = Callable[[dict[str, object]], Path]


def test_it_says_what_is_sent_what_is_new_and_what_stays(make: Make) -> None:
    tree: dict[str, object] = {f"f{i}": "x" * i for i in range(8)}
    root = make({**tree, "copy": "x" * 7, ".gitignore": "*.bin\n", "data.bin": "123", "out": ("/",)})
    scanned = scan(root)
    digests = {file.path: file.digest for file in scanned.manifest.files}
    sheet = preflight(scanned, {digests["f7"], digests["f1"]})
    assert sheet.root == str(root)
    assert sheet.snapshot == scanned.manifest.digest()
    assert sheet.count == 10
    assert sheet.bytes == sum(range(8)) + 7 + 6
    assert sheet.new_bytes == 8, "shared content is sent once"
    assert {file.path for file in sheet.files if file.new} == {"f7", "f1", "copy"}
    assert [file.path for file in sheet.largest] == ["copy", "f7", ".gitignore", "f6", "f5"]
    (row,) = sheet.left_out
    assert (row.rule, row.source, row.line, row.examples, row.files, row.bytes) == (
        "*.bin", ".gitignore", 1, ("data.bin",), 1, 3,
    )  # fmt: skip
    assert "out" in sheet.warnings[0]


def test_when_nobody_asked_everything_is_new_and_when_all_is_there_nothing(make: Make) -> None:
    scanned = scan(make({"a": "1", "b": "1"}))
    assert preflight(scanned, None).new_bytes == 1
    assert all(file.new for file in preflight(scanned, None).files)
    assert preflight(scanned, ()).new_bytes == 0


def test_it_travels_as_json(make: Make) -> None:
    sheet = preflight(scan(make({"a": "1", "x.pem": ""})), None)
    encoded = msgspec.json.encode(sheet)
    assert msgspec.json.decode(encoded, type=Preflight) == sheet
    assert msgspec.json.decode(encoded)["files"] == [{"path": "a", "size": 1, "new": True}]
