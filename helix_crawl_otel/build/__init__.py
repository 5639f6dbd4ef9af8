"""The main job: from a folder of files to shards with a vector for every passage."""
