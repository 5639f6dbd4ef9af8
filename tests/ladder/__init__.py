"""The ladder in real processes, on a modelled card laid over a real worker."""
