"""Fault tolerance and diagnostics of a run: lost hosts, preemption, elastic restarts, traces."""
