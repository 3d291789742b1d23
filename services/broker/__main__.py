"""`python -m services.broker`: nothing is loaded before a Ctrl-C is harmless."""

import signal
import sys


def main() -> int:
    """Run the command line and return its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from services.broker import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
