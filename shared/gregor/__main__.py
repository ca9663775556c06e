"""`python -m gregor`: the command `gregor`."""

from gregor.cli import main

if __name__ == "__main__":
    main()
