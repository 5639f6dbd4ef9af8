"""The report of a run: one page and one picture, made from a timeline after the fact."""
