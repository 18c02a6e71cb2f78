"""`python -m slicesight` is `slicesight`, also where the script is not on the PATH."""

from slicesight.cli import main

main()
