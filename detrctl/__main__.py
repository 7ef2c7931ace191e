"""`python -m detrctl`"""

import sys

from detrctl.cli.app import run

if __name__ == "__main__":  # loader workers import this file again where they are not forked
    sys.exit(run())
