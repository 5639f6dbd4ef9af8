"""The supervisor: starts workers, hears them, ends them when the policy says so, and starts others. Never loads
torch.
"""
