"""The names of oslo.rootwrap, over `privsep.rootwrap`."""
