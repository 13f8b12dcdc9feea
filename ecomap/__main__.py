"""``python -m ecomap``: the command line, as `accelerate launch` starts it in each process."""

from ecomap.cli import main

if __name__ == "__main__":
    main()
