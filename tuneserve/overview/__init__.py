"""What there is of every run, read from all stages: for the commands about runs and for the page of
`tuneserve ui`."""
