"""A run on a rented machine: where it costs least, and a SkyPilot task that trains there."""
