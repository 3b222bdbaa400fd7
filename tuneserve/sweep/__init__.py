"""Sweeps: trainings of one recipe with other settings, chosen by the held-out loss (Optuna)."""
