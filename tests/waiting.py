"""A module that says when it is imported, and waits until it may go on, if asked to."""

import os
from pathlib import Path

if begun := os.environ.get("PRIVSEP_TEST_BEGUN"):
    Path(begun).write_text("begun\n")
    Path(os.environ["PRIVSEP_TEST_GO_ON"]).read_text()
