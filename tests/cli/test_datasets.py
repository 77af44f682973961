"""``gradient datasets`` as a person types it."""

from __future__ import annotations

import re
from pathlib import Path

from .conftest import Gradient


def test_a_dataset_is_made_used_changed_and_removed(gradient: Gradient, directory: Path) -> None:
    data = directory.parent / "leaves"
    data.mkdir()
    (data / "a.csv").write_text("1,2\n")
    made = gradient("datasets", "create", "leaves", "--from", str(data), "--description", "by hand")
    assert made.code == 0 and re.fullmatch(r"dst\w{12}\n", made.out)
    assert "version 1" in made.err and "1 file, 4 B" in made.err
    again = gradient("datasets", "create", "leaves", "--from", str(data))
    assert again.out == made.out and "unchanged" in again.err
    (data / "b.csv").write_text("3\n")
    assert "version 2" in gradient("datasets", "update", "leaves", "--from", str(data)).err
    listed = gradient("datasets", "list").out
    assert "leaves" in listed and "by hand" in listed
    shown = gradient("datasets", "show", "leaves").out
    assert "/datasets/leaves and /data/leaves" in shown and "gradient run --dataset leaves" in shown
    assert gradient("datasets", "show", "leaves", "--json").json["all_versions"][1]["number"] == 1
    assert gradient("datasets", "files", "leaves:1").out.split()[-1] == "a.csv"
    assert len(gradient("datasets", "files", "leaves", "--json").json) == 2
    script = 'ls "$GRADIENT_DATASETS_DIR/leaves"'
    ran = gradient("run", "--dataset", "leaves:1", "sh", "-c", script)
    assert (ran.code, ran.out) == (0, "a.csv\n")
    created = gradient("jobs", "create", "-f", "--dataset", "leaves", "--", "sh", "-c", script)
    assert created.out == "a.csv\nb.csv\n"
    job = gradient("jobs", "list", "--json", "-l", "1").json[0]["id"]
    assert "leaves:2" in gradient("jobs", "show", job).out
    assert gradient("jobs", "rerun", "-f", "--dataset", "leaves:1", job).out == "a.csv\n"
    assert gradient("jobs", "rerun", "-f", "--no-datasets", job).code == 2
    gone = gradient("datasets", "delete", "leaves:1")
    assert gone.code == 0 and "leaves:1  is gone" in gone.err
    assert gradient("datasets", "delete", "leaves", "--json").json["versions"] == [2]


def test_what_goes_wrong_is_said_with_a_next_step(gradient: Gradient) -> None:
    for words, code, says in (
        (("create",), 2, "Say what to call it"),
        (("create", "a/b", "--from", "."), 1, "cannot be the dataset's name"),
        (("create", "x", "--from", "absent"), 1, "does not exist"),
        (("update", "x", "--from", "."), 1, "There is no dataset 'x'"),
        (("update", "x"), 2, "Say what is new"),
        (("show", "x"), 1, "There is no dataset 'x'"),
        (("delete", "x:y"), 2, "names no dataset"),
        (("create", "x", "--from", "https://127.0.0.1:9/x"), 1, "does not go to"),
        (("create", "x", "--from", "https://u:p@h/x"), 1, "no user name, password or token"),
        (("create", "x", "--from", ".", "--sha256", "0" * 64), 1, "from a URL"),
    ):
        ended = gradient("datasets", *words)
        assert ended.code == code and says in ended.err, ended
        assert ended.out == ""
    ended = gradient("run", "--dataset", "nowhere", "true")
    assert ended.code == 1 and "There is no dataset 'nowhere'" in ended.err
    assert gradient("jobs", "rerun", "--dataset", "x", "--no-datasets", "j0").code == 2
