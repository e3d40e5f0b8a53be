"""`python -m fiscus`: the same as the console script."""

from fiscus.cli import main

if __name__ == "__main__":
    main()
