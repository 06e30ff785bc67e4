"""A package whose name begins as the service's does; nothing may import it."""

from pathlib import Path

Path("/tmp/neutronlike_evil-imported").touch()
