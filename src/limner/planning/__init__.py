"""The planner: memory and time before a run starts, from facts of devices, traces and a search."""
