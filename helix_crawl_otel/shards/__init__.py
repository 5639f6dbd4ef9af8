"""The files of genes: SQLite, and all of its SQL."""
