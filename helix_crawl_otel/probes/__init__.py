"""Memory probes: what a device has in use, read from NVML, torch or the control group. Import the submodule needed."""
