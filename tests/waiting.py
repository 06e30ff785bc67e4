"""A module that says when it is imported, and waits until it may go on, if asked to."""

import os
from pathlib import Path

if begun := os.environ.get("PRIVSEP_TEST_BEGUN"):
    # Opened first: what is let go before anybody has opened it is heard by nobody.
    with Path(os.environ["PRIVSEP_TEST_GO_ON"]).open() as go_on:
        Path(begun).write_text("begun\n")
        go_on.read()
