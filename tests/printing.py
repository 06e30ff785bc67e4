"""A module that writes to the daemon's own standard error when it is imported."""

import os

os.write(2, b"first\nsecond\n")
