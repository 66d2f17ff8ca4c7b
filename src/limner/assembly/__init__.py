"""A recipe made concrete on this machine, and the model that it trains put together."""
