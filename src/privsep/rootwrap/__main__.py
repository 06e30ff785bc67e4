"""The start of privsep-rootwrap: by path, without site-packages, or by ``-m``.

Runs in the privileged process, first of all.  By path there is no package around it
yet; an empty one is made, because the real one would load the client's side.
"""

import sys

if not __package__:
    _package = type(sys)("privsep")
    _package.__path__ = [__file__.rpartition("/")[0].rpartition("/")[0]]
    sys.modules["privsep"] = _package

from privsep.rootwrap.main import main

sys.exit(main(sys.argv[1:]))
