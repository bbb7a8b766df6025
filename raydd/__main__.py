"""`python -m raydd` is `raydd`."""

from raydd.cli import main

main()
