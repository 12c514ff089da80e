"""`python -P -m analyzer`: the command line."""

from analyzer.cli import main

main()
