"""A physical spill that needs no GPU: a memory group that thrashes, seen as a card through the real `pynvml`."""
