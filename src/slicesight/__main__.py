"""`python -m slicesight` is `slicesight`, also where the script is not on the PATH."""

from slicesight.cli import main

if __name__ == "__main__":  # processes that are started afresh (vLLM's) import this file again
    main()
