"""Fuzzing of everything that reads what strangers wrote. Not installed; `make fuzz` runs it."""
