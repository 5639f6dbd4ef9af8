"""A package, so that a helper is imported by its full name: `from tests.programs import require_program`."""
