"""What keeps a run alive and explains it: lost hosts, preemption, elastic restarts, traces."""
