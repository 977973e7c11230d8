"""The command `nacgen` as `python -m nacgen`."""

from nacgen.cli import main

if __name__ == "__main__":
    main()
