"""`python -m slicesight.cli` is `slicesight`."""

from slicesight.cli import main

main()
