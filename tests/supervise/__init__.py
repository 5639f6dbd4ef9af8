"""The supervisor: its decisions, its processes, and what it makes of what workers say."""
