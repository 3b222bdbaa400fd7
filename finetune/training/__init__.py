"""The training itself: loop, losses, callbacks, checkpoints, progress."""
