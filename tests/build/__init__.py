"""The main job, tried from the outside: real processes, started and killed."""
