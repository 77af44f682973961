"""What Gradient's users type: it works, or it is recognised and refused with a way on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from verbtree import ALL

from gradient_jupyter.cli import gradient_words
from gradient_jupyter.cli.command import normal


@pytest.mark.parametrize("option", sorted(gradient_words.OPTIONS))
def test_no_option_that_exists_is_refused(option: str) -> None:
    for path, command in ALL.items():
        for param in command.params:
            assert option not in {normal(name.lstrip("-")) for name in param.opts}, path


@pytest.mark.parametrize(
    "option",
    [
        "--container",
        "--clusterId",
        "--useDockerfile",
        "--registryUsername",
        "--isPublic",
        "--nodeAttrs",
        "--is-preemptible",
        "--workingDirectory",
        "--datasetUri",
        "--datasetName",
        "--datasetVersionId",
        "--datasetEtag",
        "--datasetAwsAccessKeyId",
        "--datasetAwsSecretAccessKey",
        "--datasetVolumeKind",
        "--dataset-volume-size",
    ],
)
def test_an_option_that_can_mean_nothing_is_refused_with_a_way_on(gradient: Any, option: str) -> None:
    refused = gradient("jobs", "create", option, "x", "--", "true")
    assert (refused.code, refused.out) == (2, "")
    first, following = refused.err.splitlines()
    assert first.startswith(f"gradient: {option}: ")
    assert following.startswith("  next: ")


@pytest.mark.parametrize("verb", sorted(gradient_words.VERBS))
def test_a_noun_that_is_not_here_yet_is_recognised(gradient: Any, verb: str) -> None:
    refused = gradient(verb, "list")
    assert (refused.code, len(refused.err.splitlines())) == (2, 2)
    assert "next: " in refused.err


def test_a_mistyped_option_is_told_in_its_own_spelling(gradient: Any) -> None:
    refused = gradient("run", "--machineTyp", "x", "true")
    assert refused.code == 2
    assert "There is no option --machineTyp. Did you mean --machineType?" in refused.err


def test_every_spelling_of_an_option_is_the_option(gradient: Any) -> None:
    for spelt in ("--machineType", "--machine-type", "--machine_type", "--MACHINETYPE"):
        job = gradient("jobs", "create", spelt, "small", "--dryRun", "--workspace", "none", "--", "true")
        assert job.code == 0, job.err


def test_gradients_options_of_a_job_mean_here_what_they_meant(gradient: Any, directory: Path) -> None:
    (directory / "big.csv").write_text("1")
    (directory / "data").mkdir()
    (directory / "data" / "x").write_text("1")
    words = (
        "--jobEnv",
        '{"A": 1, "B": "x y", "C": true}',
        "--tags",
        "a,b",
        "--tag",
        "c",
        "--follow",
        "--json",
    )
    made = gradient("jobs", "create", *words, "--ignoreFiles", "*.csv,data", "--command", "find . -type f")
    assert made.code == 0, made.err
    job = made.json
    assert (job["env"], job["tags"]) == ({"A": "1", "B": "x y", "C": "true"}, ["c", "a", "b"])
    assert gradient("jobs", "logs", "--id", job["id"]).out == "./train.py\n"
    for wrong in ("[1]", "{", '{"A": {"b": 1}}', '{"A-B": 1}'):
        assert gradient("jobs", "create", "--jobEnv", wrong, "--", "true").code == 2


def test_what_is_left_out_is_named_with_its_rule(gradient: Any, directory: Path) -> None:
    (directory / "big.csv").write_text("1")
    (directory / ".gradientignore").write_text("!*.csv\n")
    assert "--ignoreFiles" in gradient("run", "--dry-run", "--ignoreFiles", "*.csv", "train.py").out
    nothing = gradient("run", "--workspace", "none", "--ignoreFiles", "*.csv", "true")
    assert (nothing.code, "Only of a directory" in nothing.err) == (1, True)


def test_a_ref_goes_with_a_repository_only(gradient: Any) -> None:
    assert "--workspaceRef" in gradient("run", "--workspaceRef", "main", "true").err
    from gradient_jupyter.cli.options import _at

    assert _at("git+https://h/r#subdirectory=a", "v1") == "git+https://h/r@v1#subdirectory=a"
    for wrong in ("git+https://h/r@main", "."):
        with pytest.raises(click.UsageError):
            _at(wrong, "v1")


def test_old_verbs_lead_to_the_new_ones(gradient: Any) -> None:
    job = gradient("run", "--json", "train.py").json["id"]
    listed = gradient("jobs", "artifacts", "list", job, "--json").json
    assert gradient("jobs", "artifactsList", "--jobId", job, "--json").json == listed
    assert gradient("jobs", "artifactsGet", job, "-o", "there").code == 0
    assert gradient("jobs", "artifacts", "get", job, "-o", "there").code == 0
    assert "small" in gradient("jobs", "machineTypes").out
    assert gradient("project", "details", "leaf-health", "--json").json["name"] == "leaf-health"
    assert gradient("jobs", "artifactsDestroy", job, "model.bin").code == 0
    assert gradient("jobs", "artifacts", "list", job, "--json").json == []
    assert gradient("jobs", "destroy", job).code == 0


def test_artifacts_are_listed_by_pattern_with_sizes_and_addresses(gradient: Any) -> None:
    code = "cd $GRADIENT_ARTIFACTS_DIR; mkdir plots; echo 12345 > plots/a.png; echo 1 > 'b c.txt'"
    job = gradient("run", "--json", "sh", "-c", code).json["id"]

    def paths(*words: str) -> list[str]:
        return [each["path"] for each in gradient("jobs", "artifacts", "list", *words, job, "--json").json]

    assert paths() == ["b c.txt", "plots/a.png"]
    assert paths("--files", "*.png") == paths("--files", "plots") == ["plots/a.png"]
    assert paths("--files", "*.jpg") == []
    assert " 6 " in gradient("jobs", "artifacts", "list", "-s", job).out
    with_links = gradient("jobs", "artifacts", "list", "-l", job, "--json").json
    assert with_links[0]["url"].endswith(f"/jobs/{job}/artifacts/b%20c.txt")
    assert with_links[1]["url"] in gradient("jobs", "artifacts", "list", "-l", job).out
