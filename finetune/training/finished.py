"""Is a run's training finished already, with these settings and data?"""

from __future__ import annotations

from tuneserve.changes import changed_since
from tuneserve.console import say
from tuneserve.finetune.data.hub import is_here
from tuneserve.finetune.data.prepare import data_hash, data_inputs
from tuneserve.finetune.training.checkpoints import has_checkpoints, is_replacing
from tuneserve.finetune.training.result import TrainResult
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


def finished_result(recipe: Recipe, run: RunDirectory) -> TrainResult | None:
    """The result of a finished training with these very settings and data, if there is one; says
    so.

    Data that is on this machine must be as it was. Data that isn't any more (a deleted file, a hub
    data set that is not in the cache) could not be trained on anyway: what was trained on it
    counts. Never asks the hub.
    """
    if training_changes(recipe, run) or not run.adapter.is_dir():
        return None
    result = run.finished("train", TrainResult)
    if result is None:
        return None
    gone = [str(path) for path in data_inputs(recipe.data) if not is_here(path)]
    if not gone and data_hash(recipe.data) != result.data.sha256:
        return None
    about = f" ({', '.join(gone)}: not here any more, so not compared)" if gone else ""
    say(f"{run.adapter}: done already{about}")
    return result


def training_changes(recipe: Recipe, run: RunDirectory) -> list[str]:
    """The settings that shape a training and that are not as the run has saved them."""
    changed = changed_since(run.saved_settings(), recipe, ("model", "data", "train"))
    # How many GPUs it takes shapes nothing.
    return [line for line in changed if not line.startswith("train.gpus ")]


def was_cut_off(run: RunDirectory) -> bool:
    """Is there an adapter beside an unfinished training: was the process killed after it wrote the
    adapter and before run.json says so, or when it was to replace an older one?"""
    if is_replacing(run.checkpoints):  # --force was said, whether or not a checkpoint came
        return True
    return "train" not in run.read().stages and has_checkpoints(run.checkpoints)
