"""The example that everyone runs first: it must work by hand, quietly, and leave three good files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    artifacts = tmp_path_factory.mktemp("digits") / "artifacts"
    environment = {**os.environ, "GRADIENT_ARTIFACTS_DIR": str(artifacts)}
    command = [sys.executable, "train.py", "--epochs", "8"]
    run = subprocess.run(
        command, cwd=DIGITS, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return artifacts, run


def test_each_epoch_prints_one_line_and_nothing_goes_to_stderr(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, run = trained
    epochs = re.findall(r"^epoch (\d+)/8  loss=\d+\.\d{3}  accuracy=[01]\.\d{3}$", run.stdout, re.MULTILINE)
    assert epochs == [str(n) for n in range(1, 9)]
    assert run.stderr == ""


def test_the_report_tells_parameters_metrics_and_versions(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    report = json.loads((trained[0] / "report.json").read_text())
    assert report["parameters"] == {"epochs": 8, "lr": 0.003, "seed": 0}
    assert [row["epoch"] for row in report["epochs"]] == list(range(1, 9))
    assert report["accuracy"] == report["epochs"][-1]["accuracy"] > 0.9
    assert report["epochs"][-1]["loss"] < report["epochs"][0]["loss"]
    assert sum(map(sum, report["confusion_matrix"])) == 450
    assert {"python", "scikit-learn", "skl2onnx"} <= report["versions"].keys()


def test_the_plot_is_a_png(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    picture = (trained[0] / "training.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 20_000


def test_the_exported_model_reads_digits(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    import numpy as np
    import onnxruntime
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    session = onnxruntime.InferenceSession(trained[0] / "digits.onnx", providers=["CPUExecutionProvider"])
    (inlet,) = session.get_inputs()
    assert inlet.shape == [None, 64]
    read, probabilities = session.run(None, {inlet.name: pixels.astype(np.float32)})
    assert np.mean(read == labels) > 0.9
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_nonsense_parameters_are_refused_before_any_work() -> None:
    run = subprocess.run(
        [sys.executable, "train.py", "--epochs", "0"], cwd=DIGITS, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "--epochs must be at least 1" in run.stderr
