"""Tables and plots from a run; a pure function of results/."""
