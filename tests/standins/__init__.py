"""Stand-ins for programs and libraries that a test machine lacks."""
