"""`python -m cluster.cli`."""

from cluster.cli.main import main

if __name__ == "__main__":
    main()
