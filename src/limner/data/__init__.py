"""A folder of images becomes examples, views and an order. No models, no torch."""
