"""`python -m gateway`, where its packages are installed."""

import sys

try:
    from gateway.command import main
except ModuleNotFoundError as error:
    sys.exit(f"error: expected the extra gateway, got no {error.name}; make setup installs it.")

if __name__ == "__main__":
    sys.exit(main())
