"""What the user asks for. Pure values: no torch, no file opened on import."""
