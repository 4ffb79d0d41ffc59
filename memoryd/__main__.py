"""`python -m memoryd` is `memoryd`."""

from memoryd.cli import main

if __name__ == "__main__":
    main()
