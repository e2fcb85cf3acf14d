"""`python -m swath.cli`: the command without an installed script."""

from swath.cli.main import main

main()
