"""The names and the behaviour of oslo.rootwrap, over `privsep.rootwrap`.

The commands judge by `privsep.rootwrap` alone.  The classes here are for programs that
use filters as a library.
"""
