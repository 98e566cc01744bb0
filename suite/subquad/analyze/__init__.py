"""Statistics over measurements: pure functions, no plotting, no measuring."""
