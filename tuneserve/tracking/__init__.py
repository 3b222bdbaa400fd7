"""Figures for tracking servers: curves while training, and each stage's results and hashes.

stage.py is what a command uses, backends.py has one class for each library, figures.py takes a
stage's result apart.
"""

from tuneserve.tracking.stage import Tracking, tracked

__all__ = ["Tracking", "tracked"]
