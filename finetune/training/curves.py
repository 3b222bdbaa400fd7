"""The loss curves of a run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneserve.curve import smoothed
from tuneserve.files import atomic_path
from tuneserve.finetune.training.trainer import EVAL_LOSS, GENERAL_LOSS

Points = list[tuple[int, float]]


def points(history: Sequence[Mapping[str, float]], key: str) -> Points:
    """(step, value) of a quantity in the trainer's log; a step logged twice keeps the last."""
    found = {int(entry["step"]): float(entry[key]) for entry in history if key in entry}
    return sorted(found.items())


def draw_curves(history: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Write train, eval and general loss over steps to a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    train = points(history, "loss")
    evaluation = points(history, EVAL_LOSS)
    general = points(history, GENERAL_LOSS)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    if train:
        axes.plot(*zip(*train, strict=True), color="#c9d6e8", linewidth=1, label="train, each step")
        window = max(1, len(train) // 20)
        axes.plot(
            *zip(*smoothed(train, window), strict=True), color="#1f5fa8",
            label=f"train, mean of {window} steps",
        )  # fmt: skip
    if evaluation:
        axes.plot(*zip(*evaluation, strict=True), "o-", color="#c8501e", label="eval")
    if general:
        axes.plot(*zip(*general, strict=True), "s--", color="#5a7d2a", label="general")
    axes.set(title=title, xlabel="optimizer step", ylabel="loss per answer token (nats)", ylim=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=150)
    plt.close(figure)
