"""`python -m whilst.cli`: what `whilst` is, for a Python whose scripts are not on the path."""

from whilst.cli import main

main()
