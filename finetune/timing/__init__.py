"""How long training takes: the work of an epoch, this machine's pace, and both together."""
