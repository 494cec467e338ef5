"""What the process that starts loading processes imports, so that these needn't: they are forked from it.

Frozen, what has been imported isn't looked through again and again by the collector of each child, which would write
down what it has seen, and so get copies of its own of all those pages. And the process itself, which holds nothing of
the user's, needn't take a million objects apart when it ends.
"""

import atexit
import gc
import os

gc.disable()
import plainloop.data.loader  # noqa: E402, F401

gc.freeze()
gc.enable()
atexit.register(os._exit, 0)
