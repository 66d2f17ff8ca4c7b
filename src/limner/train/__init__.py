"""The verbs. Each reads files that earlier verbs wrote, writes its own, and may be killed and run again."""
