"""Waits for ever; says before that it has begun, if asked to."""

import os
import threading
from pathlib import Path

if begun := os.environ.get("PRIVSEP_TEST_BEGUN"):
    Path(begun).write_text("begun")

threading.Event().wait()
