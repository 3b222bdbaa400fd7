"""`tuneserve ui`: the runs on one local page: what there is, what is running, start and stop."""
