"""The commands around the main job, from outside."""
