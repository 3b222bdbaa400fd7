"""Unsloth, torch and the processes they run in; the model as it is loaded."""
