"""Teach a small neural network to read handwritten digits, and leave behind all one wants to keep.

Into $GRADIENT_ARTIFACTS_DIR (./artifacts when run by hand) go report.json (parameters, the metrics of
every epoch, versions), training.png (the same to look at) and digits.onnx (the model: 64 grey values
of 0 to 16 in, label and probabilities out). As a job it also logs each epoch, for `gradient jobs metrics`;
by hand it does the rest.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler

Sample = tuple[np.ndarray, np.ndarray]  # grey values, one row of 64 per digit; the digits
INK, FAINT, RULE, BLUE, ORANGE = "#1f2933", "#66727f", "#e4e7eb", "#2563eb", "#f59e0b"


def main() -> None:
    options = parse_options()
    artifacts = Path(os.environ.get("GRADIENT_ARTIFACTS_DIR") or "artifacts")
    artifacts.mkdir(parents=True, exist_ok=True)

    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels, test_size=0.25, stratify=labels, random_state=options.seed
    )
    print(f"{len(train_y)} digits to learn from, {len(test_y)} to be tested on", flush=True)

    model, history = train((train_x, train_y), (test_x, test_y), options)
    confusion = confusion_matrix(test_y, model.predict(test_x))

    write_report(artifacts / "report.json", options, history, confusion)
    draw(artifacts / "training.png", history, confusion)
    export_onnx(artifacts / "digits.onnx", model, test_x)
    print(f"report.json, training.png and digits.onnx are in {artifacts}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a digit reader.")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training set (%(default)s)")
    parser.add_argument("--lr", type=float, default=0.003, help="learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (%(default)s)")
    options = parser.parse_args()
    if options.epochs < 1 or options.lr <= 0:
        parser.error("--epochs must be at least 1 and --lr above 0")
    return options


def train(
    training: Sample, test: Sample, options: argparse.Namespace
) -> tuple[Pipeline, list[dict[str, float]]]:
    """The trained model, which takes raw grey values, and one entry of metrics per epoch."""
    (train_x, train_y), (test_x, test_y) = training, test
    scaler = MinMaxScaler().fit(train_x)
    network = MLPClassifier(
        hidden_layer_sizes=(64,), learning_rate_init=options.lr, batch_size=32, random_state=options.seed
    )
    model = make_pipeline(scaler, network)
    classes = np.unique(train_y)
    history: list[dict[str, float]] = []
    started = time.perf_counter()
    for epoch in range(1, options.epochs + 1):
        network.partial_fit(scaler.transform(train_x), train_y, classes=classes)
        probabilities = model.predict_proba(test_x)
        metrics = {
            "epoch": epoch,
            "train_loss": float(log_loss(train_y, model.predict_proba(train_x), labels=classes)),
            "loss": float(log_loss(test_y, probabilities, labels=classes)),
            "accuracy": float(accuracy_score(test_y, classes[probabilities.argmax(axis=1)])),
            "seconds": round(time.perf_counter() - started, 3),
        }
        history.append(metrics)
        print(
            f"epoch {epoch}/{options.epochs}  loss={metrics['loss']:.3f}  accuracy={metrics['accuracy']:.3f}",
            flush=True,
        )
        if "GRADIENT_JOB_ID" in os.environ:
            tell(metrics, epoch, options.epochs)
    return model, history


def tell(metrics: dict[str, float], epoch: int, epochs: int) -> None:
    """Logs an epoch's metrics, and says how far the job is."""
    import gradient_job  # every job finds it, there is nothing to install

    gradient_job.log_metrics({name: metrics[name] for name in ("train_loss", "loss", "accuracy")}, step=epoch)
    gradient_job.set_progress(epoch / epochs, f"epoch {epoch} of {epochs}")


def write_report(
    path: Path, options: argparse.Namespace, history: list[dict[str, float]], confusion: np.ndarray
) -> None:
    import matplotlib
    import skl2onnx
    import sklearn

    report: dict[str, Any] = {
        "parameters": vars(options),
        "accuracy": history[-1]["accuracy"],
        "loss": history[-1]["loss"],
        "epochs": history,
        "confusion_matrix": confusion.tolist(),  # row: the digit it is; column: the digit it was read as
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "matplotlib": matplotlib.__version__,
            "skl2onnx": skl2onnx.__version__,
        },
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def draw(path: Path, history: list[dict[str, float]], confusion: np.ndarray) -> None:
    """Loss and accuracy over the epochs on the left, what was read as what on the right."""
    # A fresh home makes matplotlib tell of its caches on stderr; no news for who reads the job's log.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.12, wspace=0.02)
    figure = Figure(figsize=(12.4, 6.8), dpi=120, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    title = f"Handwritten digits: {history[-1]['accuracy']:.1%} read correctly after {len(history)} epochs"
    figure.suptitle(title, x=0.014, ha="left", fontsize=15, fontweight="bold", color=INK)
    axes = figure.subplot_mosaic([["loss", "confusion"], ["accuracy", "confusion"]], width_ratios=[1, 1.12])
    draw_curves(axes["loss"], axes["accuracy"], history)
    draw_confusion(axes["confusion"], confusion)
    figure.savefig(path)


def draw_curves(loss: Any, accuracy: Any, history: list[dict[str, float]]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    def line(axes: Any, metric: str, color: str, label: str) -> None:
        values = [row[metric] for row in history]
        axes.plot(range(1, len(values) + 1), values, "o-", ms=4, lw=2, color=color, label=label)

    line(loss, "train_loss", ORANGE, "training set")
    line(loss, "loss", BLUE, "test set")
    line(accuracy, "accuracy", BLUE, "test set")
    loss.set_title("Loss", loc="left", color=INK)
    loss.set_ylim(bottom=0)
    loss.legend(frameon=False, labelcolor=INK)
    accuracy.set_title("Accuracy on the test set", loc="left", color=INK)
    accuracy.set_xlabel("epoch", color=FAINT)
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=RULE)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(RULE)
        axes.tick_params(colors=FAINT, length=0)


def draw_confusion(board: Any, confusion: np.ndarray) -> None:
    # The colour follows the root of a field's share of its row: a single mistake stays visible.
    shares = confusion / confusion.sum(axis=1, keepdims=True)
    board.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1.1)
    for row, column in np.argwhere(confusion):
        color = "white" if shares[row, column] > 0.3 else INK
        board.text(column, row, confusion[row, column], ha="center", va="center", color=color)
    board.set_title("What was read as what (test set)", loc="left", color=INK)
    board.set_xlabel("read as", color=FAINT)
    board.set_ylabel("digit", color=FAINT)
    board.set_xticks(range(10))
    board.set_yticks(range(10))
    board.set_xticks(np.arange(0.5, 9), minor=True)
    board.set_yticks(np.arange(0.5, 9), minor=True)
    board.grid(which="minor", color="white", linewidth=2)
    board.tick_params(which="both", length=0, colors=FAINT)
    board.spines[:].set_visible(False)


def export_onnx(path: Path, model: Pipeline, test_x: np.ndarray) -> None:
    from skl2onnx import to_onnx

    sample = test_x.astype(np.float32)
    exported = to_onnx(model, sample[:1], options={"zipmap": False})
    path.write_bytes(exported.SerializeToString())
    try:
        import onnxruntime
    except ImportError:
        print("digits.onnx written (onnxruntime is not installed, so it was not compared with the model)")
        return
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _, probabilities = session.run(None, {session.get_inputs()[0].name: sample})
    difference = float(np.abs(probabilities - model.predict_proba(test_x)).max())
    if difference > 1e-4:
        raise SystemExit(f"digits.onnx does not compute what the model computes: off by {difference:.2g}")
    print(f"digits.onnx computes what the model computes (largest difference {difference:.1e})")


if __name__ == "__main__":
    main()
