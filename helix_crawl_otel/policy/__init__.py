"""The pure heart: numbers in, verdicts and actions out.

No clock, environment, thread, torch, pynvml or opentelemetry.
"""
