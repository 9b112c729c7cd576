"""`python -m harness.sweepctl`."""

import sys

from harness.sweepctl import main

if __name__ == "__main__":
    sys.exit(main())
