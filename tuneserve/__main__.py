"""`python -m tuneserve` is the tuneserve command."""

from tuneserve.cli import main

main()
