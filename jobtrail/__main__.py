"""`python -m jobtrail`: the command line."""

from jobtrail.cli import main

main()
