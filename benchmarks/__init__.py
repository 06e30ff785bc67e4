"""The bench: what privsep costs beside its floors and its peers, measured in turn."""
