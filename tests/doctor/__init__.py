"""The doctor: what it finds on scripted machines, and on this one."""
