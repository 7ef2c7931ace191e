"""`python -m detrctl`"""

import sys

from detrctl.cli.app import run

sys.exit(run())
