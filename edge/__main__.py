"""`python -m edge`: one edge."""

import sys

from edge.server import main

if __name__ == "__main__":
    sys.exit(main())
