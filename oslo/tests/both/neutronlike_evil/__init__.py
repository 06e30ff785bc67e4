"""A package whose name begins as the service's does; nothing may import it."""

import sys
from pathlib import Path

Path(sys.prefix, "neutronlike_evil-imported").touch()
