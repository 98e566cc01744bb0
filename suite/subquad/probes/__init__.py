"""What is measured: one file for each thing, its settings and the function that runs in a child."""
